-- People, and what proves who they are. Times are microseconds since 1970, UTC. Whatever opens something is kept as a
-- SHA-256 in hexadecimal, or sealed (src/auth/ring.rs): this file read by a stranger opens nothing.
create table users (                     -- `user` is a word of PostgreSQL's own
  id               text   primary key,   -- usr_ and 26 characters
  email            text,                 -- as they write it; null: erased
  email_key        text,                 -- what it is compared by; null: erased
  name             text,                 -- what others see; null: none given
  password         text,                 -- argon2id, PHC's form; null: logs in by a provider
  role             text   not null constraint users_role check (role in ('listener', 'creator', 'admin')),
  totp_secret      text,                 -- sealed; null: no second factor, not even begun
  totp_since_us    bigint,               -- when it was confirmed by a code; null: not yet, and never asked for
  totp_last_step   bigint not null default 0, -- codes of this step of 30 seconds and before are used up
  disabled_us      bigint,               -- when an operator closed the account; null: open
  created_us       bigint not null,
  updated_us       bigint not null,
  constraint users_address check ((email is null) = (email_key is null)),
  constraint users_totp check (totp_since_us is null or totp_secret is not null)
);
create unique index users_email on users (email_key); -- nulls differ from each other

-- Somebody who says that an address is theirs. Nobody has an account before a link in a mail proves it, so that nobody
-- can take an address in advance; several may wait for one address, each with its own password and its own link.
create table registration (
  id          text   primary key, -- usr_…: the id that the person will have
  email       text   not null,
  email_key   text   not null,
  name        text,
  password    text   not null,
  created_us  bigint not null,
  expires_us  bigint not null
);
create index registration_email on registration (email_key, id);
create index registration_expiring on registration (expires_us);

-- Links in mails and logins that wait for a second factor: each opens once.
create table one_time_token (
  hash        text   primary key,
  purpose     text   not null constraint one_time_token_purpose check (purpose in ('verify', 'reset', 'second_factor')),
  subject     text   not null,           -- id of the registration or the user
  via         text,                      -- of a half login: 'password' or a provider's name
  tries       bigint not null default 0, -- codes that were tried with it
  created_us  bigint not null,
  expires_us  bigint not null
);
create index one_time_token_of on one_time_token (subject);
create index one_time_token_expiring on one_time_token (expires_us);

-- Codes for the day when the phone is lost; a used one is deleted.
create table recovery_code (
  hash     text   primary key,
  user_id  text   not null references users (id) on delete cascade
);
create index recovery_code_of on recovery_code (user_id);

-- One login and everything that came of it: a family of refresh tokens. Glossary: a session is not a playback.
create table session (
  id          text   primary key, -- ses_ and 26 characters
  user_id     text   not null references users (id) on delete cascade,
  via         text   not null,    -- 'password' or a provider's name
  mfa_us      bigint,             -- when a second factor was shown; null: none
  client      text,               -- the User-Agent it began with, for people
  place       text   not null,    -- network it began in, as throttles write it
  created_us  bigint not null,
  seen_us     bigint not null,    -- last refresh
  expires_us  bigint not null,    -- however often it is refreshed
  ended_us    bigint,             -- null: it goes on
  ended_by    text constraint session_ended_by check (ended_by in ('logout', 'owner', 'reuse', 'password', 'factor', 'operator')),
  constraint session_end check ((ended_us is null) = (ended_by is null))
);
create index session_of on session (user_id, id);
create index session_expiring on session (expires_us);

-- Each opens once: a second use means that two have it, and ends the session.
create table refresh_token (
  hash        text   primary key,
  session_id  text   not null references session (id) on delete cascade,
  created_us  bigint not null,
  expires_us  bigint not null,
  used_us     bigint              -- null: it is the one that is valid
);
create index refresh_token_of on refresh_token (session_id);

-- Keys for programs of a person.
create table api_key (
  id          text   primary key, -- key_ and the 10 characters that the key itself shows
  user_id     text   not null references users (id) on delete cascade,
  name        text   not null,    -- what its owner calls it
  sha256      text   not null,
  may_read    bigint not null constraint api_key_read check (may_read in (0, 1)),
  may_write   bigint not null constraint api_key_write check (may_write in (0, 1)),
  may_admin   bigint not null constraint api_key_admin check (may_admin in (0, 1)),
  created_us  bigint not null,
  expires_us  bigint,             -- null: never
  used_us     bigint,             -- within some minutes; null: never
  revoked_us  bigint              -- null: it opens
);
create index api_key_of on api_key (user_id, id);

-- The same person at a provider of identities.
create table identity (
  provider    text   not null,    -- its name in auth.providers
  subject     text   not null,    -- its own name for the person: `sub`
  user_id     text   not null references users (id) on delete cascade,
  tokens      text,               -- sealed JSON of what it gave us; null: nothing worth keeping
  created_us  bigint not null,
  seen_us     bigint not null,
  primary key (provider, subject)
);
create index identity_of on identity (user_id);

-- Logins that are at a provider just now.
create table provider_login (
  state       text   primary key, -- hash of `state`
  provider    text   not null,
  browser     text   not null,    -- hash of a cookie: whoever comes back is who left
  verifier    text   not null,    -- sealed: of PKCE
  nonce       text   not null,    -- has to be in the identity token
  return_to   text   not null,    -- where the browser goes then
  expires_us  bigint not null
);
create index provider_login_expiring on provider_login (expires_us);

-- What is left of each limit, for all nodes. A row that expired says nothing.
create table rate_limit (
  bucket      text   primary key, -- the rule and whom it is about
  mark_us     bigint not null,    -- rate: when it is full again; quota: when its window began; brake: not before
  used        bigint not null,    -- quota and brake: so many
  wait_us     bigint not null,    -- brake: the latest wait
  granted     bigint not null,    -- by the latest take
  expires_us  bigint not null
);
create index rate_limit_expiring on rate_limit (expires_us);

-- Mails to be sent. What opens something is made when a mail is, and never lies here.
create table mail (
  id          text   primary key, -- mai_ and 26 characters
  kind        text   not null,    -- src/providers/mail.rs has the words of each
  email       text   not null,    -- to whom
  about       text   not null,    -- JSON object: what it needs to say
  state       text   not null constraint mail_state check (state in ('pending', 'sent', 'dropped', 'dead')),
  tries       bigint not null default 0,
  next_us     bigint not null,    -- not before; while it is sent: when somebody else may
  error       text,               -- of the latest try
  created_us  bigint not null,
  done_us     bigint              -- null unless sent, dropped or dead
);
create index mail_due on mail (next_us, id) where state = 'pending';
create index mail_done on mail (done_us) where done_us is not null;
