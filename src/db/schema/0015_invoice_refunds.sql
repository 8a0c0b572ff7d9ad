-- What somebody paid for a subscription that had ended meanwhile goes back: a refund is of an order, or of what a
-- subscription was paid by.

--@ sqlite
-- SQLite takes no constraint off a column: the table is made anew (https://www.sqlite.org/lang_altertable.html §7). No
-- other table refers to it.
create table refund_anew (
  id               text   primary key,   -- ref_, ours and the provider's
  order_id         text   references sale_order (id),
  subscription_id  text   references subscription (id),
  payment_id       text   not null references payment (id),
  amount_minor     bigint not null constraint refund_amount check (amount_minor > 0),
  tax_minor        bigint not null default 0  -- of a subscription's: what the tax in its invoice bears
    constraint refund_tax check (tax_minor between 0 and amount_minor),
  loss_minor       bigint not null default 0  -- more than was left of what was paid: nobody but us bears it
    constraint refund_loss check (loss_minor >= 0),
  status           text   not null constraint refund_status check (status in ('pending', 'succeeded', 'failed')),
  requested_by     text   not null,
  reason           text,                 -- the words of whoever asked
  known_us         bigint,               -- when the provider was first known to have it: until then it may be an orphan
  error            text,                 -- why it failed, or why it is not known yet
  alarm            text,                 -- why a person has to look at it; null: nobody has to
  created_us       bigint not null,
  updated_us       bigint not null,
  settled_us       bigint,               -- when it ended
  constraint refund_for check ((order_id is null) <> (subscription_id is null))
);
insert into refund_anew (id, order_id, payment_id, amount_minor, loss_minor, status, requested_by, reason, known_us, error, alarm,
    created_us, updated_us, settled_us)
  select id, order_id, payment_id, amount_minor, loss_minor, status, requested_by, reason, known_us, error, alarm,
    created_us, updated_us, settled_us from refund;
drop table refund;
alter table refund_anew rename to refund;
create unique index refund_pending on refund (order_id) where status = 'pending';
create index refund_succeeded on refund (order_id) where status = 'succeeded';
create index refund_of on refund (order_id, id);
create index refund_open on refund (created_us) where status = 'pending';

--@ postgres
alter table refund alter column order_id drop not null;
alter table refund add column subscription_id text references subscription (id);
alter table refund add column tax_minor bigint not null default 0
  constraint refund_tax check (tax_minor between 0 and amount_minor);
alter table refund add constraint refund_for check ((order_id is null) <> (subscription_id is null));

--@ both
-- One at a time; and what of a payment went back is looked up by it.
create unique index refund_invoice_pending on refund (payment_id) where status = 'pending' and subscription_id is not null;
create index refund_of_payment on refund (payment_id);
