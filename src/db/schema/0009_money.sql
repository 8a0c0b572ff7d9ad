-- What is sold, bought, paid, given back and passed on. Amounts are minor units, times microseconds since 1970, UTC, people
-- opaque ids. Each `status` has its legal moves in src/ledger/{order,refund,transfer,subscription}.rs and one statement that
-- makes them, in src/db/money.rs. Whatever moves money is a journal of the ledger in the same transaction.

-- What somebody asked for under an idempotency key: the same key again is the same thing.
create table money_request (
  subject      text   not null,
  key          text   not null,
  fingerprint  text   not null,  -- SHA-256 of what was asked: the same key has to mean the same
  object       text   not null,  -- id of what came of it
  created_us   bigint not null,
  primary key (subject, key)
);

create table product (
  id               text   primary key,  -- prd_ and 26 characters that sort by the time of creation; so are the others
  seller           text   not null,
  track            text,                -- what its licences are for; null: none of ours
  title            text   not null,
  currency         text   not null constraint product_currency check (length(currency) = 3),
  preview_enabled  bigint not null default 0 constraint product_preview check (preview_enabled in (0, 1)),
  active           bigint not null default 1 constraint product_active check (active in (0, 1)), -- can be bought
  created_us       bigint not null,
  updated_us       bigint not null
);
create index product_of on product (seller, id);
create index product_for on product (track, id) where track is not null;
create table product_licence (
  product_id   text   not null references product (id) on delete cascade,
  kind         text   not null constraint product_licence_kind check (kind in ('personal', 'commercial', 'extended')),
  price_minor  bigint not null constraint product_licence_price check (price_minor between 1 and 10000000000),
  primary key (product_id, kind)
);
create table product_image (
  product_id  text   not null references product (id) on delete cascade,
  position    bigint not null,   -- 0 is shown first
  url         text   not null,
  primary key (product_id, position)
);

create table sale_order (
  id                 text   primary key,  -- ord_
  buyer              text   not null,
  status             text   not null constraint sale_order_status check (status in
    ('created', 'pending_payment', 'paid', 'refund_pending', 'refunded', 'failed', 'expired')),
  currency           text   not null,
  total_minor        bigint not null constraint sale_order_total check (total_minor > 0),
  refund_until_us    bigint,             -- its own deadline of refunds; null: days after paid_us, as configured
  created_us         bigint not null,
  updated_us         bigint not null,
  paid_us            bigint,             -- null until it was paid
  refunded_us        bigint              -- null until the money went back
);
create index sale_order_of on sale_order (buyer, id);
create index sale_order_open on sale_order (created_us) where status in ('created', 'pending_payment');
create table order_item (
  order_id      text   not null references sale_order (id),
  line          bigint not null,         -- 1, 2, …
  product_id    text   not null references product (id),
  track         text,
  title         text   not null,         -- as it was when it was bought
  kind          text   not null,
  seller        text   not null,
  price_minor   bigint not null constraint order_item_price check (price_minor = seller_minor + fee_minor + tax_minor),
  seller_minor  bigint not null constraint order_item_seller check (seller_minor >= 0),
  fee_minor     bigint not null constraint order_item_fee check (fee_minor >= 0),
  tax_minor     bigint not null constraint order_item_tax check (tax_minor >= 0),
  primary key (order_id, line)
);
create index order_item_of on order_item (seller, order_id);

create table subscription (
  id              text   primary key,    -- sub_
  subject         text   not null,
  plan            text   not null,       -- its id in the configuration
  status          text   not null constraint subscription_status check (status in
    ('pending_payment', 'trialing', 'active', 'expired', 'cancelled')),
  price_minor     bigint not null constraint subscription_price check (price_minor >= 0), -- 0: a free plan
  currency        text   not null,
  period_days     bigint not null constraint subscription_period check (period_days >= 0), -- 0: without end
  trial_until_us  bigint,                -- null: no trial
  ends_us         bigint,                -- in force until then; null: without end, or not in force yet
  created_us      bigint not null,
  updated_us      bigint not null,
  constraint subscription_trial check (status <> 'trialing' or trial_until_us is not null)
);
create index subscription_of on subscription (subject, id);
create unique index subscription_live on subscription (subject) where status in ('pending_payment', 'trialing', 'active');
create index subscription_ending on subscription (ends_us) where status = 'active' and ends_us is not null;
create index subscription_trying on subscription (trial_until_us) where status = 'trialing';

-- A payment at the provider: stored, with what will be asked, before it is asked for.
create table payment (
  id               text   primary key,   -- ours and the provider's: pay_, or the subscription's
  order_id         text   unique references sale_order (id),
  subscription_id  text   references subscription (id),
  amount_minor     bigint not null constraint payment_amount check (amount_minor > 0),
  currency         text   not null,
  fingerprint      text   not null,      -- SHA-256 of the request: what the provider has under this id must be this
  client_secret    text,                 -- with which the buyer's browser pays; null until the provider answered
  provider_state   text,                 -- as the provider last said it; null until it knew the payment
  alarm            text,                 -- why a person has to look at it; null: nobody has to
  created_us       bigint not null,
  seen_us          bigint,               -- when the provider was first known to have it
  updated_us       bigint not null,
  constraint payment_for check ((order_id is null) <> (subscription_id is null))
);
create index payment_of on payment (subscription_id) where subscription_id is not null;
create table invoice (
  id               text   primary key,   -- inv_
  subscription_id  text   not null references subscription (id),
  payment_id       text   not null unique references payment (id),
  status           text   not null constraint invoice_status check (status in ('open', 'paid', 'failed')),
  amount_minor     bigint not null constraint invoice_amount check (amount_minor > 0),
  tax_minor        bigint not null constraint invoice_tax check (tax_minor >= 0), -- within the amount
  currency         text   not null,
  created_us       bigint not null,
  updated_us       bigint not null,
  paid_us          bigint,               -- once
  constraint invoice_paid check ((status = 'paid') = (paid_us is not null))
);
create index invoice_of on invoice (subscription_id, id);

create table licence (
  id          text   primary key,        -- lic_
  order_id    text   not null,
  line        bigint not null,
  holder      text   not null,
  product_id  text   not null,
  track       text,
  kind        text   not null,
  granted_us  bigint not null,
  revoked_us  bigint,                    -- null while it is in force
  unique (order_id, line),
  foreign key (order_id, line) references order_item (order_id, line)
);
create index licence_of on licence (holder, id);
create index licence_for on licence (holder, track) where revoked_us is null;

create table refund (
  id            text   primary key,      -- ref_, ours and the provider's
  order_id      text   not null references sale_order (id),
  payment_id    text   not null references payment (id),
  amount_minor  bigint not null constraint refund_amount check (amount_minor > 0),
  status        text   not null constraint refund_status check (status in ('pending', 'succeeded', 'failed')),
  requested_by  text   not null,
  reason        text,                    -- the words of whoever asked
  known_us      bigint,                  -- when the provider was first known to have it: until then it may be an orphan
  error         text,                    -- why it failed, or why it is not known yet
  alarm         text,                    -- why a person has to look at it; null: nobody has to
  created_us    bigint not null,
  updated_us    bigint not null,
  settled_us    bigint                   -- when it ended
);
create unique index refund_pending on refund (order_id) where status = 'pending';
create unique index refund_succeeded on refund (order_id) where status = 'succeeded';
create index refund_of on refund (order_id, id);
create index refund_open on refund (created_us) where status = 'pending';

-- Where a seller is paid.
create table seller_account (
  seller       text   primary key,
  destination  text   not null,          -- acct_, a connected account of Stripe
  updated_us   bigint not null
);

-- What a seller gets of an order.
create table transfer (
  id                    text   primary key, -- trf_
  order_id              text   not null references sale_order (id),
  seller                text   not null,
  amount_minor          bigint not null constraint transfer_amount check (amount_minor > 0),
  currency              text   not null,
  status                text   not null constraint transfer_status check (status in
    ('pending', 'completed', 'failed', 'reversal_pending', 'reversed', 'permanently_failed')),
  provider_transfer_id  text   unique constraint transfer_provider check (provider_transfer_id <> ''), -- null until made
  destination           text,               -- as it was when it was first asked for
  attempt               bigint not null default 0, -- the one that is reserved in the ledger, or was last
  tries                 bigint not null default 0, -- in this phase: transfer, then reversal; pauses grow with them
  refusals              bigint not null default 0, -- of them, those that the provider answered with no
  generation            bigint not null default 0, -- of the idempotency key: a definite answer ends one
  submitted_us          bigint,             -- first use of that key, whose outcome is not known; null: nothing is open
  reversed_minor        bigint not null default 0, -- came back, and is booked
  next_attempt_at_us    bigint,             -- not before; null: nobody is to try
  error                 text,               -- why the last try did not do it
  created_us            bigint not null,
  updated_us            bigint not null,
  unique (order_id, seller),
  constraint transfer_reversal_has_next check (status <> 'reversal_pending' or next_attempt_at_us is not null),
  constraint transfer_made_has_id check (status not in ('completed', 'reversal_pending', 'reversed') or provider_transfer_id is not null),
  constraint transfer_reversed check (reversed_minor between 0 and amount_minor),
  constraint transfer_reversed_whole check (status <> 'reversed' or reversed_minor = amount_minor)
);
create index transfer_of on transfer (seller, id);
create index transfer_due on transfer (next_attempt_at_us) where status in ('pending', 'failed', 'reversal_pending');

-- Every delivery of a provider, valid or not. `result` is null until it was processed.
create table webhook_delivery (
  id               text   primary key,   -- whd_
  provider         text   not null constraint webhook_provider check (provider in ('hyperswitch', 'stripe')),
  event_id         text,                 -- null: it could not be read
  event_type       text,
  payload          text   not null,      -- of an unsigned one the beginning only
  signature_valid  bigint not null constraint webhook_signature check (signature_valid in (0, 1)),
  result           text   constraint webhook_result check (result in
    ('ok', 'error', 'signature_invalid', 'skipped', 'duplicate')),
  error            text,
  tries            bigint not null default 0,
  next_us          bigint,               -- not before; null once there is a result that nobody repeats
  source_ip        text,
  user_agent       text,
  request_id       text   not null,
  received_us      bigint not null,
  processed_us     bigint
);
create index webhook_waiting on webhook_delivery (next_us) where next_us is not null;
create index webhook_event on webhook_delivery (provider, event_id) where result = 'ok';
create index webhook_received on webhook_delivery (received_us);
