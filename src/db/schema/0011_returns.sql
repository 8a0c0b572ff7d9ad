-- What of a sale went back, or is about to: refunds of a part, several of them for one order, and disputes.

-- How much of each part of an item a refund or a dispute takes. Rows are there while the refund is pending or succeeded,
-- while the dispute is open or lost; what is left of an item is its own amounts less these.
create table order_return (
  cause         text   not null,  -- ref_…, or the provider's id of a dispute
  order_id      text   not null,
  line          bigint not null,
  seller_minor  bigint not null constraint order_return_seller check (seller_minor >= 0),
  fee_minor     bigint not null constraint order_return_fee check (fee_minor >= 0),
  tax_minor     bigint not null constraint order_return_tax check (tax_minor >= 0),
  gone          bigint not null constraint order_return_gone check (gone in (0, 1)), -- 0: reserved, 1: the buyer has it
  primary key (cause, line),
  foreign key (order_id, line) references order_item (order_id, line)
);
create index order_return_of on order_return (order_id, line);
-- Until here every refund was one of the whole order.
insert into order_return (cause, order_id, line, seller_minor, fee_minor, tax_minor, gone)
  select r.id, i.order_id, i.line, i.seller_minor, i.fee_minor, i.tax_minor, case r.status when 'succeeded' then 1 else 0 end
  from refund r join order_item i on i.order_id = r.order_id where r.status in ('pending', 'succeeded');

-- Several may succeed now.
drop index refund_succeeded;
create index refund_succeeded on refund (order_id) where status = 'succeeded';
-- More than was left of the order: nobody but us bears it.
alter table refund add column loss_minor bigint not null default 0 constraint refund_loss check (loss_minor >= 0);

-- What has to come back of a transfer that was made, in all; more than `reversed_minor`: somebody is at it.
alter table transfer add column due_back_minor bigint not null default 0
  constraint transfer_due_back check (due_back_minor >= 0);
-- What the open request for a reversal asked for: its repetition under the same key has to ask for the same.
alter table transfer add column asked_back_minor bigint
  constraint transfer_asked_back check (asked_back_minor > 0);
update transfer set due_back_minor = amount_minor where status in ('reversal_pending', 'reversed');
create index transfer_partly_due on transfer (next_attempt_at_us) where status = 'completed' and next_attempt_at_us is not null;

-- What a buyer's bank took, or wants to take, from a payment. The provider's word alone moves it.
create table dispute (
  id              text   primary key,  -- the provider's
  payment_id      text   not null references payment (id),
  status          text   not null constraint dispute_status check (status in ('open', 'won', 'lost')),
  amount_minor    bigint not null constraint dispute_amount check (amount_minor > 0),
  currency        text   not null,
  provider_state  text   not null,      -- as the provider last said it
  turns           bigint not null default 0, -- times that it was opened, won or lost: each has its journal
  loss_minor      bigint not null default 0  -- more than was left of the sale: not held from anybody
    constraint dispute_loss check (loss_minor between 0 and amount_minor),
  tax_minor       bigint not null default 0, -- of a subscription's payment: what the tax in its invoice bears
  alarm           text,                 -- why a person has to look at it; null: nobody has to
  created_us      bigint not null,
  updated_us      bigint not null,
  settled_us      bigint                -- when it was last won or lost; null while it is open
);
create index dispute_of on dispute (payment_id);
create index dispute_open on dispute (created_us) where status = 'open';

-- What somebody paid a seller by hand at the provider: who says so, and why. Rows are only ever inserted.
create table hand_payout (
  reference     text   primary key,  -- the provider's id of it
  seller        text   not null,
  amount_minor  bigint not null constraint hand_payout_amount check (amount_minor > 0),
  currency      text   not null,
  reason        text   not null constraint hand_payout_reason check (length(reason) >= 10),
  booked_by     text   not null,     -- which admin
  booked_us     bigint not null
);
create index hand_payout_of on hand_payout (seller, booked_us);
