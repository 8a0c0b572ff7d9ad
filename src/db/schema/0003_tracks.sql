-- What people know as one piece of music, and where its bytes are. Times are microseconds since 1970, UTC.
create table track (
  id               text   primary key,  -- trk_…
  title            text   not null,
  owner            text,                -- id of a user; null: made from the command line
  state            text   not null      -- src/tracks.rs has the legal moves
    constraint track_state check (state in ('draft', 'uploaded', 'processing', 'ready', 'published', 'unlisted', 'failed',
      'blocked', 'deleted')),
  visibility       text   not null constraint track_visibility check (visibility in ('public', 'private')),
  storage_backend  text   not null constraint track_backend check (storage_backend in ('local', 's3')),
  storage_key      text,   -- what the keys of its current version begin with; null: there is none, or the row is broken
  version          text,   -- which the track shows; null until there is one
  samples          bigint, -- length of its source; null until there is a version
  rate             bigint, -- sample rate of its source in Hz; null until there is a version
  flac             bigint not null default 0 constraint track_flac check (flac in (0, 1)),         -- it has a FLAC rung
  lossless         bigint not null default 0 constraint track_lossless check (lossless in (0, 1)), -- which decodes to the source
  bytes            bigint, -- of all objects of its current version; null: not counted
  error            text,   -- why it failed, for people; null unless state = 'failed'
  created_us       bigint not null,
  updated_us       bigint not null,
  published_us     bigint, -- when it first had a version
  moved_us         bigint  -- when its storage_backend last changed; null: never
);
create index track_stored on track (storage_backend, id);
create index track_owned on track (owner, id) where owner is not null;
