-- Durable work. Times are microseconds since 1970, UTC. JSON is text.

-- One wish to do something. src/jobs/mod.rs has the legal moves between the states.
create table job (
  id               text   primary key,  -- job_ and 26 characters that sort by the time of enqueueing
  kind             text   not null,     -- what it asks for: 'transcode'
  priority         bigint not null constraint job_priority check (priority between 0 and 9), -- 9 goes first
  state            text   not null
    constraint job_state check (state in ('queued', 'leased', 'succeeded', 'dead', 'cancelled')),
  input            text   not null,     -- JSON: what to do
  rungs            text,                -- JSON list of the rungs to make again; null: all
  client           text   not null,     -- who enqueued: idempotency keys are theirs
  idempotency_key  text,                -- null: every enqueue is another job
  fingerprint      text   not null,     -- sha256 of kind and input: the same key has to mean the same job
  cpu_milli        bigint not null,     -- what it occupies while it runs, in thousandths of a core
  memory_bytes     bigint not null,     -- and in bytes
  attempt          bigint not null default 0, -- attempts begun; the number of the latest is the fencing token
  failures         bigint not null default 0, -- attempts that failed since it was last enqueued by a person
  failures_max     bigint not null constraint job_failures_max check (failures_max > 0),
  run_at_us        bigint not null,     -- not before
  worker           text,                -- who has the lease; null unless leased
  lease_until_us   bigint,              -- when it ends; null unless leased
  cancel_us        bigint,              -- when somebody asked for the running attempt to stop
  started_us       bigint,              -- when the latest attempt began
  done_us          bigint not null default 0, -- of the media, by the running attempt
  total_us         bigint,              -- length of the media; null while unknown
  output           text,                -- JSON: what came of it
  reason           text,                -- of the latest failure, one of a fixed list
  error            text,                -- the same for people
  created_us       bigint not null,
  updated_us       bigint not null,
  finished_us      bigint,              -- when it reached its last state
  constraint job_leased check ((state = 'leased') = (worker is not null)),
  constraint job_lease_ends check ((state = 'leased') = (lease_until_us is not null))
);
create unique index job_idempotency on job (client, idempotency_key); -- nulls differ from each other
create index job_queue on job (priority desc, run_at_us, id) where state = 'queued';
create index job_leases on job (lease_until_us) where state = 'leased';
create index job_finished on job (finished_us) where finished_us is not null;

-- What happened to a job, in order, for those who watch.
create table job_event (
  job_id  text   not null references job (id) on delete cascade,
  seq     bigint not null,  -- 1, 2, … without gaps
  at_us   bigint not null,
  event   text   not null,  -- queued, started, rung, published, succeeded, failed, …
  body    text   not null,  -- JSON object
  primary key (job_id, seq)
);

-- Work that one process does for all of them.
create table singleton (
  name      text   primary key,
  holder    text   not null,
  until_us  bigint not null   -- after this anybody may take it
);
