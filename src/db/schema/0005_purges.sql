-- What a CDN shall forget. Times are microseconds since 1970, UTC.
create table purge (
  id          text   primary key, -- prg_ and 26 characters that sort by time
  kind        text   not null constraint purge_kind check (kind in ('tag', 'url')),
  value       text   not null,    -- the tag or the URL
  state       text   not null constraint purge_state check (state in ('pending', 'done', 'dead')),
  asked       bigint not null default 1, -- how often it was wished for; a wish during a try is not done by that try
  tries       bigint not null default 0,
  next_us     bigint not null,    -- not before; while it is tried: when somebody else may
  error       text,               -- of the latest try; null when it was done
  created_us  bigint not null,
  done_us     bigint              -- null unless done
);
-- Wishing for it again while it waits is the same purge.
create unique index purge_pending on purge (kind, value) where state = 'pending';
create index purge_due on purge (next_us, id) where state = 'pending';
