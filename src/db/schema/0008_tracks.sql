-- What owners decide about their tracks, who may hear them, what happened to them. Times are microseconds since 1970, UTC.
-- src/tracks/moves.rs has the legal moves of a track, src/tracks/access.rs decides who may have what.
alter table track add column publish_when_ready bigint not null default 1 -- 0: its owner decides when it is ready
  constraint track_publish_when_ready check (publish_when_ready in (0, 1));
alter table track add column upload text;           -- id of the upload that its next version is made from; null: none was named
alter table track add column pending text;          -- JSON of the wish to enqueue when that upload is ready; null: none waits
alter table track add column job text;              -- id of the latest job that makes a version of it; null: there was none
alter table track add column made_from text;        -- sha256 of the request that made it; null: no key could repeat it
alter table track add column blocked_from text;     -- the state that it returns to; null unless state = 'blocked'
alter table track add column preview_enabled bigint not null default 0 -- 1: strangers hear 30 s of what they would have to pay for
  constraint track_preview_enabled check (preview_enabled in (0, 1));
alter table track add column preview_start_ms bigint -- where its preview begins; null: at the loudest
  constraint track_preview_start check (preview_start_ms >= 0);
alter table track add column price_minor bigint      -- what it costs in minor units; null: nothing
  constraint track_price check (price_minor > 0);
alter table track add column currency text           -- ISO 4217 of the price
  constraint track_currency check ((currency is null) = (price_minor is null));
alter table track add column artwork text;          -- hash in the names of its pictures; null: it has none
alter table track add column deleted_us bigint;     -- when it was deleted; null unless state = 'deleted'
create index track_listed on track (owner, created_us desc, id desc) where owner is not null;
create index track_of_job on track (job) where job is not null;
create index track_awaits on track (upload) where pending is not null;

-- What happened to a track, in order, for those who watch: its own moves, and the events of its job.
create table track_event (
  track  text   not null references track (id),
  seq    bigint not null,  -- 1, 2, … without gaps
  at_us  bigint not null,
  event  text   not null,  -- state, or as in job_event
  body   text   not null,  -- JSON object
  primary key (track, seq)
);

-- Every whole version that a track has shown.
create table track_version (
  track     text   not null references track (id),
  version   text   not null,
  bytes     bigint,          -- of all its objects; null: not counted
  samples   bigint not null,
  rate      bigint not null, -- Hz
  flac      bigint not null,
  lossless  bigint not null,
  video     bigint not null,
  made_us   bigint not null, -- when it was first shown
  primary key (track, version)
);
insert into track_version (track, version, bytes, samples, rate, flac, lossless, video, made_us)
  select id, version, bytes, coalesce(samples, 0), coalesce(rate, 0), flac, lossless, 0, coalesce(published_us, created_us)
  from track where version is not null;

-- Tokens by which an owner lets others hear a track.
create table share (
  id          text   primary key,     -- shr_ and 26 characters that sort by time
  track       text   not null references track (id),
  sha256      text   not null unique, -- of the token, which is kept nowhere
  label       text,                   -- what its owner calls it
  created_us  bigint not null,
  expires_us  bigint not null,
  revoked_us  bigint                  -- null while it is in force
);
create index share_of on share (track, id);

-- Who bought what. Written by the ledger, in the transaction of the posting that pays for it; revoked by a refund's.
create table entitlement (
  subject     text   not null,
  track       text   not null,
  granted_us  bigint not null,
  revoked_us  bigint,                 -- null while it is in force
  primary key (subject, track)
);

-- Plays are counted by day. A listener's name means nothing outside of its day (src/tracks/listener.rs).
create table play_day (
  track      text   not null,
  day        bigint not null,         -- since 1970, UTC
  plays      bigint not null,
  listeners  bigint not null,         -- of that day
  primary key (track, day)
);
create table play_listener (
  track     text   not null,
  listener  text   not null,
  last_us   bigint not null,          -- when their latest counted play began
  day       bigint not null,          -- of the first one
  primary key (track, listener)
);
create index play_listener_old on play_listener (last_us);
create table play_salt (
  day   bigint primary key,
  salt  text   not null               -- 256 random bits; removed two days later, and then nobody can tell who it was
);

create table lyrics (
  track       text   primary key references track (id),
  text        text   not null,        -- plain, or with a time before each line ([mm:ss.xx], LRC)
  synced      bigint not null constraint lyrics_synced check (synced in (0, 1)),
  language    text,                   -- BCP 47; null: nobody said
  updated_us  bigint not null
);

-- Notices of infringement, 17 USC 512(c)(3). src/tracks/dmca.rs has the legal moves.
create table dmca_notice (
  id             text   primary key,  -- dmc_ and 26 characters that sort by time
  standing       text   not null constraint dmca_standing check (standing in
    ('incomplete', 'received', 'taken_down', 'waiting', 'restored', 'upheld', 'dismissed')),
  track          text,                -- the track that it means; null: a person has to find out
  notice         text   not null,     -- JSON, as it was sent
  counter        text,                -- JSON of the counter-notice; null until there is one
  received_us    bigint not null,
  taken_down_us  bigint,
  counter_us     bigint,              -- when the counter-notice was received: the clock runs from then
  restore_from_us bigint,             -- put back not before
  restore_by_us  bigint,              -- and before this
  closed_us      bigint               -- when it was dismissed, restored or upheld
);
create index dmca_queue on dmca_notice (standing, id);
create index dmca_of on dmca_notice (track) where track is not null;

-- Who did what that a court may ask about. Rows are only ever inserted: triggers refuse everything else.
create table audit (
  id       text   primary key,        -- aud_ and 26 characters that sort by time
  at_us    bigint not null,
  actor    text   not null,           -- subject of who did it, or a program's name
  action   text   not null,           -- dmca.takedown, …
  about    text   not null,           -- id of what it was done to
  body     text   not null            -- JSON object
);
create index audit_about on audit (about, id);

--@ sqlite
-- `insert or replace` deletes through the second trigger, because recursive_triggers is on (src/db/mod.rs).
create trigger audit_stays_1 before update on audit begin select raise(abort, 'audit: rows are only ever inserted'); end;
create trigger audit_stays_2 before delete on audit begin select raise(abort, 'audit: rows are only ever inserted'); end;

--@ postgres
create function audit_stays() returns trigger language plpgsql as $$
begin
  raise exception 'audit: rows are only ever inserted';
end $$;
create trigger audit_stays_1 before update or delete on audit for each row execute function audit_stays();
create trigger audit_stays_2 before truncate on audit for each statement execute function audit_stays();
