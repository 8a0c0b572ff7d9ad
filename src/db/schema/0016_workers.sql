-- What each worker of each process said of itself last, for people who look: nothing is decided by it.
-- Times are microseconds since 1970, UTC.
create table worker (
  node         text   not null,        -- the process: host, its number, four random digits
  name         text   not null,        -- janitor, pool, mail, …
  every_us     bigint not null,        -- how often it has a turn
  begun_us     bigint not null,        -- when the process began to work
  seen_us      bigint not null,        -- when the process last wrote this row
  ran_us       bigint,                 -- its last turn here ended; null: it had none
  failures     bigint not null,        -- turns of this process that failed
  failed_us    bigint,                 -- the last of them; null: none did
  error        text,                   -- why; null: none did
  primary key (node, name),
  constraint worker_failed check ((failed_us is null) = (error is null))
);
create index worker_seen on worker (seen_us);
