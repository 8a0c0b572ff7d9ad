-- Subscriptions that go on by themselves: paid from a saved means of payment before their period ends.

alter table subscription add column method text;             -- the provider's id of what it is paid by; null: nothing was saved
alter table subscription add column renews bigint not null default 0 -- 0: it ends with its period
  constraint subscription_renews check (renews in (0, 1));
alter table subscription add column renewal_tries bigint not null default 0; -- payments asked for, for the period that comes
alter table subscription add column renew_next_us bigint;    -- the next one not before; null: there is none to come
create index subscription_renewing on subscription (renew_next_us) where status = 'active' and renew_next_us is not null;

-- What a paid invoice paid for. Null until it is paid, and for those that were paid before this column was there.
alter table invoice add column from_us bigint;
alter table invoice add column until_us bigint;              -- null too where a period has no end
-- Nobody is asked for the next payment while nobody knows what became of the one before.
create unique index invoice_open on invoice (subscription_id) where status = 'open';
