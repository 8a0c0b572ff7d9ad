-- Files that people send. src/uploads/mod.rs has the legal moves between the states; src/db/uploads.rs has the one
-- statement that makes them.
create table upload (
  id               text   primary key,  -- upl_ and 26 characters that sort by the time of creation
  owner            text   not null,     -- who sends; nobody else sees it
  kind             text   not null constraint upload_kind check (kind in ('audio', 'image', 'video')),
  state            text   not null constraint upload_state check (state in
    ('created', 'uploading', 'verifying', 'ready', 'refused', 'expired', 'aborted', 'deleted')),
  bytes            bigint not null constraint upload_bytes check (bytes >= 0), -- its length; of a form at most, until its end
  offset_bytes     bigint not null default 0, -- from the beginning, durable: never more than is in the store
  sha256           text,                -- it must have; once it is ready, it has
  name             text,                -- what its sender calls it; never a path
  track            text,                -- the track it is for
  metadata         text,                -- Upload-Metadata, in our spelling
  idempotency_key  text,
  fingerprint      text   not null,     -- of what was announced: the same key has to mean the same upload
  place            text   not null constraint upload_place check (place in ('local', 's3')),
  store_upload     text,                -- S3's id of the upload in parts; null until there is one
  tail_writer      bigint,              -- whose object holds the bytes behind the last whole part; null: none does
  writer           bigint not null default 0, -- number of the latest writer: the fencing token of its bytes
  writer_until_us  bigint,              -- until when it has the right; null: nobody writes
  verify_us        bigint,              -- not before; while it is verified: when somebody else may
  attempts         bigint not null default 0, -- to verify it
  mime             text,                -- what it turned out to be
  reason           text,                -- of a refusal, one of a fixed list
  error            text,                -- the same for people; while verifying: why not yet
  expires_us       bigint,              -- nobody goes on after this; null once all bytes are here
  created_us       bigint not null,
  updated_us       bigint not null,
  finished_us      bigint,              -- when it became ready, or ended
  swept_us         bigint,              -- when its bytes were removed; null while there may be some
  constraint upload_offset check (offset_bytes between 0 and bytes)
);
create unique index upload_idempotency on upload (owner, idempotency_key); -- nulls differ from each other
create index upload_of on upload (owner, id);
create index upload_expiring on upload (expires_us) where state in ('created', 'uploading');
create index upload_verifying on upload (verify_us) where state = 'verifying';
create index upload_sweeping on upload (finished_us) where state in ('refused', 'expired', 'aborted', 'deleted');

-- The parts of an upload to a bucket, as the bucket acknowledged them.
create table upload_part (
  upload_id  text   not null references upload (id) on delete cascade,
  number     bigint not null,   -- 1, 2, …
  bytes      bigint not null,
  etag       text   not null,
  primary key (upload_id, number)
);

-- What each owner occupies. Changed only in the transaction that creates an upload or moves it.
create table upload_usage (
  owner            text   primary key,
  uploads          bigint not null default 0 constraint usage_uploads check (uploads >= 0),       -- on their way
  in_flight_bytes  bigint not null default 0 constraint usage_flight check (in_flight_bytes >= 0), -- as announced
  stored_bytes     bigint not null default 0 constraint usage_stored check (stored_bytes >= 0)     -- of what is ready
);
