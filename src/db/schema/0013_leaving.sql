-- People who want to have all that is here of them, or to be forgotten. Both are done by jobs (src/people/). Times are
-- microseconds since 1970, UTC.

-- Archives, made by jobs of the kind 'export'.
create table account_export (
  id          text   primary key, -- exp_ and 26 characters
  user_id     text   not null references users (id) on delete cascade,
  state       text   not null constraint account_export_state check (state in ('queued', 'ready', 'failed')),
  job         text   not null,    -- that makes it
  hash        text,               -- SHA-256 of the token in the latest mail; null: it was not sent yet
  place       text constraint account_export_place check (place in ('local', 's3')), -- null unless ready
  bytes       bigint,             -- null unless ready
  sha256      text,               -- null unless ready
  created_us  bigint not null,
  expires_us  bigint,             -- nobody gets it after this, and it is removed; null until it ended
  constraint account_export_ready check ((state = 'ready') = (place is not null and bytes is not null and sha256 is not null)),
  constraint account_export_ends check ((state = 'queued') = (expires_us is null))
);
create unique index account_export_one on account_export (user_id) where state = 'queued';
create unique index account_export_token on account_export (hash); -- nulls differ from each other
create index account_export_of on account_export (user_id, id);
create index account_export_over on account_export (expires_us) where expires_us is not null;

-- Accounts whose owners leave. Nothing is removed before `due_us`, and until then they may come back.
create table account_erasure (
  id             text   primary key, -- era_ and 26 characters: the job names this, and not the person
  user_id        text   not null unique references users (id) on delete cascade,
  keep_tracks    bigint not null constraint account_erasure_keep check (keep_tracks in (0, 1)), -- 1: those that everybody hears stay
  job            text   not null,
  hash           text,               -- SHA-256 of the token in the mail that takes it back; null: it was not sent yet
  asked_us       bigint not null,
  due_us         bigint not null,
  taken_back_us  bigint              -- when they came back; the row goes when their tracks are shown again
);
create unique index account_erasure_token on account_erasure (hash); -- nulls differ from each other
