-- Somebody who wants their mail at another address. Nothing changes before the link in a mail to that address was followed.
-- Times are microseconds since 1970, UTC.
create table email_change (
  user_id     text   primary key references users (id) on delete cascade, -- a new wish replaces the one before
  email       text   not null,
  email_key   text   not null,   -- what it is compared by
  hash        text,              -- SHA-256 of the token in the latest mail; null: it was not sent yet
  created_us  bigint not null,
  expires_us  bigint not null
);
create unique index email_change_token on email_change (hash); -- nulls differ from each other
create index email_change_expiring on email_change (expires_us);
