-- Callbacks: one delivery per event that somebody wants to hear of, written with the event itself.
create table delivery (
  id            text   primary key, -- dlv_ and 26 characters: the receiver tells repetitions by it
  job_id        text   not null references job (id) on delete cascade,
  seq           bigint not null,    -- of the job's event
  url           text   not null,
  body          text   not null,    -- JSON, as it is signed and sent
  state         text   not null constraint delivery_state check (state in ('pending', 'delivered', 'dead')),
  tries         bigint not null default 0,
  next_us       bigint not null,    -- not before; while it is tried: when somebody else may
  created_us    bigint not null,
  delivered_us  bigint              -- null unless delivered
);
create index delivery_due on delivery (next_us, id) where state = 'pending';
create index delivery_of on delivery (job_id, seq);

-- Every try, so that "we never got it" can be answered.
create table delivery_try (
  delivery_id  text   not null references delivery (id) on delete cascade,
  number       bigint not null,
  at_us        bigint not null,
  took_us      bigint not null,
  status       bigint,             -- of the answer; null when there was none
  error        text,               -- null when it was taken
  primary key (delivery_id, number)
);
