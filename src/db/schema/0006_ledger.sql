-- The ledger: balanced or it cannot commit, on both databases. Amounts are minor units, times microseconds since 1970,
-- UTC, hashes hexadecimal SHA-256. Rows hold opaque ids only: they are kept for ever.
--
-- A journal has a deferred foreign key to its own seal, and the seal's trigger checks the postings: a transaction that
-- ends with an unsealed journal does not commit. `ledger_balance`, `ledger_mark` and `ledger_hour` are derived from the
-- postings by the same trigger; `segue ledger verify` makes them anew and compares. What code decides before
-- (src/ledger/view.rs) is decided here again: this is the wall, that is the door.

--@ sqlite
-- STRICT: without it a text would fit into a column of numbers (https://www.sqlite.org/stricttables.html).
create table ledger_currency (
  code      text    primary key constraint ledger_currency_code check (length(code) = 3 and code = upper(code)),
  exponent  integer not null constraint ledger_currency_exponent check (exponent between 0 and 4)
) strict;
create table ledger_account (
  id         integer primary key,
  code       text    not null unique,
  kind       text    not null
    constraint ledger_account_kind check (kind in ('asset', 'liability', 'equity', 'income', 'expense')),
  currency   text    not null references ledger_currency (code),
  guard      text    not null
    constraint ledger_account_guard check (guard in ('none', 'credits_ge_debits', 'debits_ge_credits')),
  opened_us  integer not null,
  unique (id, currency)
) strict;
create table ledger_journal (
  id            text    primary key,  -- the caller's name for it
  kind          text    not null,     -- payment, refund, …
  source        text    not null,     -- the event that caused it
  phase         text    not null
    constraint ledger_journal_phase check (phase in ('posted', 'pending', 'post', 'void')),
  fingerprint   text    not null,     -- of what the caller wanted: the same id has to mean the same
  effective_us  integer not null constraint ledger_journal_effective check (effective_us >= 0), -- when it counts
  recorded_us   integer not null,     -- when it was recorded; never before the one in front of it
  reverses      text    unique references ledger_journal (id),
  resolves      text    unique references ledger_journal (id),
  unique (kind, source),
  constraint ledger_journal_resolves check ((phase in ('post', 'void')) = (resolves is not null)),
  constraint ledger_journal_reverses check (reverses is null or phase = 'posted'),
  foreign key (id) references ledger_seal (journal_id) deferrable initially deferred
) strict;
create table ledger_posting (
  journal_id    text    not null references ledger_journal (id),
  line          integer not null constraint ledger_posting_line check (line >= 1),
  account_id    integer not null,
  currency      text    not null,
  debit         integer not null constraint ledger_posting_debit check (debit between 0 and 1000000000000000),
  credit        integer not null constraint ledger_posting_credit check (credit between 0 and 1000000000000000),
  seq           integer not null,     -- the journal's; so are the next two
  effective_us  integer not null,
  posted        integer not null constraint ledger_posting_posted check (posted in (0, 1)), -- counts in balances
  constraint ledger_posting_side check ((debit = 0) <> (credit = 0)),
  primary key (journal_id, line),
  unique (journal_id, account_id),
  foreign key (account_id, currency) references ledger_account (id, currency)
) strict;
create table ledger_seal (
  journal_id  text    primary key references ledger_journal (id),
  seq         integer not null unique,
  prev_hash   text    not null constraint ledger_seal_prev check (length(prev_hash) = 64),
  hash        text    not null unique constraint ledger_seal_hash check (length(hash) = 64)
) strict;
create table ledger_head (
  one          integer primary key constraint ledger_head_one check (one = 1),
  seq          integer not null,
  hash         text    not null,
  recorded_us  integer not null
) strict;
create table ledger_balance (
  account_id       integer primary key references ledger_account (id),
  guard            text    not null,
  debits           integer not null default 0 constraint ledger_balance_debits check (debits >= 0),
  credits          integer not null default 0 constraint ledger_balance_credits check (credits >= 0),
  debits_pending   integer not null default 0 constraint ledger_balance_debits_pending check (debits_pending >= 0),
  credits_pending  integer not null default 0 constraint ledger_balance_credits_pending check (credits_pending >= 0),
  version          integer not null default 0, -- postings so far
  constraint ledger_balance_cc check (guard <> 'credits_ge_debits' or credits >= debits + debits_pending),
  constraint ledger_balance_dc check (guard <> 'debits_ge_credits' or debits >= credits + credits_pending)
) strict;
create table ledger_mark (            -- sums of an account at every 256th of its postings
  account_id  integer not null,
  seq         integer not null,
  debits      integer not null,
  credits     integer not null,
  primary key (account_id, seq)
) strict, without rowid;
create table ledger_hour (            -- sums of what counts in an hour
  account_id  integer not null,
  hour        integer not null,       -- since 1970
  debits      integer not null,
  credits     integer not null,
  primary key (account_id, hour)
) strict, without rowid;
create table ledger_period (          -- what counts until then is closed
  through_us  integer primary key,
  closed_us   integer not null,
  seq         integer not null,       -- the end of the chain at that time
  hash        text    not null
) strict;

create trigger ledger_account_opens after insert on ledger_account begin
  insert into ledger_balance (account_id, guard) values (new.id, new.guard);
end;
create trigger ledger_journal_fits before insert on ledger_journal begin
  select raise(abort, 'ledger: the journal exists') where exists (select 1 from ledger_journal where id = new.id)
    or exists (select 1 from ledger_journal where kind = new.kind and source = new.source);
  select raise(abort, 'ledger: the period is closed')
    where new.effective_us <= coalesce((select max(through_us) from ledger_period), -1);
  select raise(abort, 'ledger: recorded before the one in front')
    where new.recorded_us < (select recorded_us from ledger_head);
  select raise(abort, 'ledger: what it reverses was not posted') where new.reverses is not null
    and not exists (select 1 from ledger_journal where id = new.reverses and phase in ('posted', 'post'));
  select raise(abort, 'ledger: what it resolves is not pending') where new.resolves is not null
    and not exists (select 1 from ledger_journal where id = new.resolves and phase = 'pending');
end;
create trigger ledger_posting_fits before insert on ledger_posting begin
  select raise(abort, 'ledger: the journal is missing or sealed') where not exists (
    select 1 from ledger_journal j where j.id = new.journal_id
      and not exists (select 1 from ledger_seal s where s.journal_id = j.id));
  select raise(abort, 'ledger: the posting exists')
    where exists (select 1 from ledger_posting where journal_id = new.journal_id and line = new.line);
end;
create trigger ledger_seal_fits before insert on ledger_seal begin
  select raise(abort, 'ledger: the journal is sealed')
    where exists (select 1 from ledger_seal where journal_id = new.journal_id or seq = new.seq);
  select raise(abort, 'ledger: fewer than 2 postings')
    where (select count(*) from ledger_posting where journal_id = new.journal_id) < 2;
  select raise(abort, 'ledger: unbalanced') where exists (select 1 from ledger_posting
    where journal_id = new.journal_id group by currency having sum(debit) <> sum(credit));
  select raise(abort, 'ledger: the chain breaks')
    where not exists (select 1 from ledger_head where seq = new.seq - 1 and hash = new.prev_hash);
  select raise(abort, 'ledger: a posting is not its journal''s') where exists (
    select 1 from ledger_posting p join ledger_journal j on j.id = p.journal_id
    where p.journal_id = new.journal_id and (p.seq <> new.seq or p.effective_us <> j.effective_us
      or p.posted <> (j.phase in ('posted', 'post'))));
  select raise(abort, 'ledger: no mirror of what it reverses') where exists (
    select 1 from ledger_journal j where j.id = new.journal_id and j.reverses is not null and (
      (select count(*) from ledger_posting where journal_id = j.id)
        <> (select count(*) from ledger_posting where journal_id = j.reverses)
      or exists (select account_id, debit, credit from ledger_posting where journal_id = j.id
        except select account_id, credit, debit from ledger_posting where journal_id = j.reverses)));
  select raise(abort, 'ledger: not what was reserved') where exists (
    select 1 from ledger_journal j where j.id = new.journal_id and j.resolves is not null and (
      (select count(*) from ledger_posting where journal_id = j.id)
        <> (select count(*) from ledger_posting where journal_id = j.resolves)
      or exists (select account_id, debit, credit from ledger_posting where journal_id = j.id
        except select account_id, debit, credit from ledger_posting where journal_id = j.resolves)));
end;
create trigger ledger_seal_counts after insert on ledger_seal begin
  update ledger_head set seq = new.seq, hash = new.hash,
    recorded_us = (select recorded_us from ledger_journal where id = new.journal_id);
  update ledger_balance set
    debits = debits + d.debit * d.posts, credits = credits + d.credit * d.posts,
    debits_pending = debits_pending + d.debit * d.reserves, credits_pending = credits_pending + d.credit * d.reserves,
    version = version + 1
  from (select p.account_id, p.debit, p.credit, p.posted as posts,
      case j.phase when 'pending' then 1 when 'posted' then 0 else -1 end as reserves
    from ledger_posting p join ledger_journal j on j.id = p.journal_id where p.journal_id = new.journal_id) d
  where ledger_balance.account_id = d.account_id;
  insert into ledger_mark (account_id, seq, debits, credits)
    select b.account_id, new.seq, b.debits, b.credits from ledger_posting p
    join ledger_balance b on b.account_id = p.account_id where p.journal_id = new.journal_id and b.version % 256 = 0;
  insert into ledger_hour (account_id, hour, debits, credits)
    select account_id, effective_us / 3600000000, debit, credit from ledger_posting
    where journal_id = new.journal_id and posted = 1
    on conflict (account_id, hour) do update set debits = debits + excluded.debits, credits = credits + excluded.credits;
end;
create trigger ledger_period_fits before insert on ledger_period begin
  select raise(abort, 'ledger: a later period is closed')
    where new.through_us <= (select max(through_us) from ledger_period);
  select raise(abort, 'ledger: not the end of the chain')
    where not exists (select 1 from ledger_head where seq = new.seq and hash = new.hash);
end;
-- `insert or replace` deletes without asking the triggers unless recursive_triggers is on, which db/mod.rs sets and
-- reads back; the triggers above refuse what exists before it comes to that.
create trigger ledger_currency_stays_1 before update on ledger_currency begin select raise(abort, 'ledger: immutable'); end;
create trigger ledger_currency_stays_2 before delete on ledger_currency begin select raise(abort, 'ledger: immutable'); end;
create trigger ledger_account_stays_1 before update on ledger_account begin select raise(abort, 'ledger: immutable'); end;
create trigger ledger_account_stays_2 before delete on ledger_account begin select raise(abort, 'ledger: immutable'); end;
create trigger ledger_journal_stays_1 before update on ledger_journal begin select raise(abort, 'ledger: immutable'); end;
create trigger ledger_journal_stays_2 before delete on ledger_journal begin select raise(abort, 'ledger: immutable'); end;
create trigger ledger_posting_stays_1 before update on ledger_posting begin select raise(abort, 'ledger: immutable'); end;
create trigger ledger_posting_stays_2 before delete on ledger_posting begin select raise(abort, 'ledger: immutable'); end;
create trigger ledger_seal_stays_1 before update on ledger_seal begin select raise(abort, 'ledger: immutable'); end;
create trigger ledger_seal_stays_2 before delete on ledger_seal begin select raise(abort, 'ledger: immutable'); end;
create trigger ledger_period_stays_1 before update on ledger_period begin select raise(abort, 'ledger: immutable'); end;
create trigger ledger_period_stays_2 before delete on ledger_period begin select raise(abort, 'ledger: immutable'); end;
create trigger ledger_head_stays before delete on ledger_head begin select raise(abort, 'ledger: immutable'); end;
create trigger ledger_balance_stays before delete on ledger_balance begin select raise(abort, 'ledger: immutable'); end;

--@ postgres
create table ledger_currency (
  code      text   primary key constraint ledger_currency_code check (code ~ '^[A-Z]{3}$'),
  exponent  bigint not null constraint ledger_currency_exponent check (exponent between 0 and 4)
);
create table ledger_account (
  id         bigint generated always as identity primary key,
  code       text   not null unique,
  kind       text   not null
    constraint ledger_account_kind check (kind in ('asset', 'liability', 'equity', 'income', 'expense')),
  currency   text   not null references ledger_currency (code),
  guard      text   not null
    constraint ledger_account_guard check (guard in ('none', 'credits_ge_debits', 'debits_ge_credits')),
  opened_us  bigint not null,
  unique (id, currency)
);
create table ledger_journal (
  id            text   primary key,
  kind          text   not null,
  source        text   not null,
  phase         text   not null
    constraint ledger_journal_phase check (phase in ('posted', 'pending', 'post', 'void')),
  fingerprint   text   not null,
  effective_us  bigint not null constraint ledger_journal_effective check (effective_us >= 0),
  recorded_us   bigint not null,
  reverses      text   unique references ledger_journal (id),
  resolves      text   unique references ledger_journal (id),
  unique (kind, source),
  constraint ledger_journal_resolves check ((phase in ('post', 'void')) = (resolves is not null)),
  constraint ledger_journal_reverses check (reverses is null or phase = 'posted')
);
create table ledger_posting (
  journal_id    text   not null references ledger_journal (id),
  line          bigint not null constraint ledger_posting_line check (line >= 1),
  account_id    bigint not null,
  currency      text   not null,
  debit         bigint not null constraint ledger_posting_debit check (debit between 0 and 1000000000000000),
  credit        bigint not null constraint ledger_posting_credit check (credit between 0 and 1000000000000000),
  seq           bigint not null,
  effective_us  bigint not null,
  posted        bigint not null constraint ledger_posting_posted check (posted in (0, 1)),
  constraint ledger_posting_side check ((debit = 0) <> (credit = 0)),
  primary key (journal_id, line),
  unique (journal_id, account_id),
  foreign key (account_id, currency) references ledger_account (id, currency)
);
create table ledger_seal (
  journal_id  text   primary key references ledger_journal (id),
  seq         bigint not null unique,
  prev_hash   text   not null constraint ledger_seal_prev check (length(prev_hash) = 64),
  hash        text   not null unique constraint ledger_seal_hash check (length(hash) = 64)
);
alter table ledger_journal add constraint ledger_journal_is_sealed
  foreign key (id) references ledger_seal (journal_id) deferrable initially deferred;
create table ledger_head (
  one          bigint primary key constraint ledger_head_one check (one = 1),
  seq          bigint not null,
  hash         text   not null,
  recorded_us  bigint not null
);
create table ledger_balance (
  account_id       bigint primary key references ledger_account (id),
  guard            text   not null,
  debits           bigint not null default 0 constraint ledger_balance_debits check (debits >= 0),
  credits          bigint not null default 0 constraint ledger_balance_credits check (credits >= 0),
  debits_pending   bigint not null default 0 constraint ledger_balance_debits_pending check (debits_pending >= 0),
  credits_pending  bigint not null default 0 constraint ledger_balance_credits_pending check (credits_pending >= 0),
  version          bigint not null default 0,
  constraint ledger_balance_cc check (guard <> 'credits_ge_debits' or credits >= debits + debits_pending),
  constraint ledger_balance_dc check (guard <> 'debits_ge_credits' or debits >= credits + credits_pending)
) with (fillfactor = 50); -- the same rows over and over: room for their new versions in the page
create table ledger_mark (
  account_id  bigint not null,
  seq         bigint not null,
  debits      bigint not null,
  credits     bigint not null,
  primary key (account_id, seq)
);
create table ledger_hour (
  account_id  bigint not null,
  hour        bigint not null,
  debits      bigint not null,
  credits     bigint not null,
  primary key (account_id, hour)
) with (fillfactor = 50);
create table ledger_period (
  through_us  bigint primary key,
  closed_us   bigint not null,
  seq         bigint not null,
  hash        text   not null
);

-- SECURITY DEFINER: a program may run as a role that can only select and insert; what is derived changes through these.
create function ledger_lock() returns table (seq bigint, hash text, recorded_us bigint)
language sql security definer set search_path from current as
$$ select h.seq, h.hash, h.recorded_us from ledger_head h for update $$;
create function ledger_account_opens() returns trigger language plpgsql security definer set search_path from current as $$
begin
  insert into ledger_balance (account_id, guard) values (new.id, new.guard);
  return null;
end $$;
create function ledger_journal_fits() returns trigger language plpgsql security definer set search_path from current as $$
begin
  -- The head is the lock: whoever writes a journal waits for whoever wrote the last one.
  perform 1 from ledger_lock() h where h.recorded_us <= new.recorded_us;
  if not found then
    raise exception 'ledger: recorded before the one in front';
  end if;
  if new.effective_us <= coalesce((select max(through_us) from ledger_period), -1) then
    raise exception 'ledger: the period is closed';
  end if;
  if new.reverses is not null
    and not exists (select 1 from ledger_journal where id = new.reverses and phase in ('posted', 'post')) then
    raise exception 'ledger: what it reverses was not posted';
  end if;
  if new.resolves is not null
    and not exists (select 1 from ledger_journal where id = new.resolves and phase = 'pending') then
    raise exception 'ledger: what it resolves is not pending';
  end if;
  return new;
end $$;
create function ledger_posting_fits() returns trigger language plpgsql security definer set search_path from current as $$
begin
  -- One statement: a journal that another session has not committed is invisible, and so refused.
  if not exists (select 1 from ledger_journal j where j.id = new.journal_id
      and not exists (select 1 from ledger_seal s where s.journal_id = j.id)) then
    raise exception 'ledger: the journal is missing or sealed';
  end if;
  return new;
end $$;
create function ledger_seal_fits() returns trigger language plpgsql security definer set search_path from current as $$
declare
  j ledger_journal;
  head record;
begin
  select * into head from ledger_lock();
  select * into j from ledger_journal where id = new.journal_id;
  if new.seq <> head.seq + 1 or new.prev_hash <> head.hash then
    raise exception 'ledger: the chain breaks' using errcode = '40001';
  end if;
  if (select count(*) from ledger_posting where journal_id = new.journal_id) < 2 then
    raise exception 'ledger: fewer than 2 postings';
  end if;
  if exists (select 1 from ledger_posting where journal_id = new.journal_id
      group by currency having sum(debit) <> sum(credit)) then
    raise exception 'ledger: unbalanced';
  end if;
  if exists (select 1 from ledger_posting p where p.journal_id = new.journal_id and (p.seq <> new.seq
      or p.effective_us <> j.effective_us or p.posted <> (j.phase in ('posted', 'post'))::int)) then
    raise exception 'ledger: a posting is not its journal''s';
  end if;
  if j.reverses is not null and ((select count(*) from ledger_posting where journal_id = j.id)
        <> (select count(*) from ledger_posting where journal_id = j.reverses)
      or exists (select account_id, debit, credit from ledger_posting where journal_id = j.id
        except select account_id, credit, debit from ledger_posting where journal_id = j.reverses)) then
    raise exception 'ledger: no mirror of what it reverses';
  end if;
  if j.resolves is not null and ((select count(*) from ledger_posting where journal_id = j.id)
        <> (select count(*) from ledger_posting where journal_id = j.resolves)
      or exists (select account_id, debit, credit from ledger_posting where journal_id = j.id
        except select account_id, debit, credit from ledger_posting where journal_id = j.resolves)) then
    raise exception 'ledger: not what was reserved';
  end if;
  -- Here and not after: of several rows in one statement the next one has to follow this one.
  update ledger_head set seq = new.seq, hash = new.hash, recorded_us = j.recorded_us;
  return new;
end $$;
create function ledger_seal_counts() returns trigger language plpgsql security definer set search_path from current as $$
begin
  update ledger_balance b set
    debits = b.debits + d.debit * d.posts, credits = b.credits + d.credit * d.posts,
    debits_pending = b.debits_pending + d.debit * d.reserves,
    credits_pending = b.credits_pending + d.credit * d.reserves,
    version = b.version + 1
  from (select p.account_id, p.debit, p.credit, p.posted as posts,
      case j.phase when 'pending' then 1 when 'posted' then 0 else -1 end as reserves
    from ledger_posting p join ledger_journal j on j.id = p.journal_id where p.journal_id = new.journal_id) d
  where b.account_id = d.account_id;
  insert into ledger_mark (account_id, seq, debits, credits)
    select b.account_id, new.seq, b.debits, b.credits from ledger_posting p
    join ledger_balance b on b.account_id = p.account_id where p.journal_id = new.journal_id and b.version % 256 = 0;
  insert into ledger_hour as h (account_id, hour, debits, credits)
    select account_id, effective_us / 3600000000, debit, credit from ledger_posting
    where journal_id = new.journal_id and posted = 1
    on conflict (account_id, hour)
      do update set debits = h.debits + excluded.debits, credits = h.credits + excluded.credits;
  return null;
end $$;
create function ledger_period_fits() returns trigger language plpgsql security definer set search_path from current as $$
begin
  if new.through_us <= (select max(through_us) from ledger_period) then
    raise exception 'ledger: a later period is closed';
  end if;
  if not exists (select 1 from ledger_lock() h where h.seq = new.seq and h.hash = new.hash) then
    raise exception 'ledger: not the end of the chain';
  end if;
  return new;
end $$;
create function ledger_stays() returns trigger language plpgsql as $$
begin
  raise exception 'ledger: immutable (% on %)', tg_op, tg_table_name;
end $$;
create trigger ledger_account_opens after insert on ledger_account for each row execute function ledger_account_opens();
create trigger ledger_journal_fits before insert on ledger_journal for each row execute function ledger_journal_fits();
create trigger ledger_posting_fits before insert on ledger_posting for each row execute function ledger_posting_fits();
create trigger ledger_seal_fits before insert on ledger_seal for each row execute function ledger_seal_fits();
create trigger ledger_seal_counts after insert on ledger_seal for each row execute function ledger_seal_counts();
create trigger ledger_period_fits before insert on ledger_period for each row execute function ledger_period_fits();
do $$
declare
  name text;
begin
  foreach name in array array['currency', 'account', 'journal', 'posting', 'seal', 'period'] loop
    execute format('create trigger ledger_%s_stays before update or delete on ledger_%s
      for each row execute function ledger_stays()', name, name);
    execute format('create trigger ledger_%s_is_not_emptied before truncate on ledger_%s
      for each statement execute function ledger_stays()', name, name);
  end loop;
  foreach name in array array['head', 'balance'] loop
    execute format('create trigger ledger_%s_stays before delete on ledger_%s
      for each row execute function ledger_stays()', name, name);
    execute format('create trigger ledger_%s_is_not_emptied before truncate on ledger_%s
      for each statement execute function ledger_stays()', name, name);
  end loop;
end $$;

--@ both
insert into ledger_head (one, seq, hash, recorded_us)
  values (1, 0, '0000000000000000000000000000000000000000000000000000000000000000', 0);
create index ledger_posting_seq on ledger_posting (account_id, seq, debit, credit) where posted = 1;
create index ledger_posting_effective on ledger_posting (account_id, effective_us, debit, credit) where posted = 1;
create index ledger_journal_recorded on ledger_journal (recorded_us);
