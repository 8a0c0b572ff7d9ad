-- PostgreSQL checks and counts what one statement posts together, not row by row: that was some thirty small queries for a
-- journal, and a session that had planned them while the tables were empty went on reading the tables from end to end.
-- The walls are those of 0006, and so are their words. SQLite has no triggers of statements and keeps its own, which looked
-- at the time of a journal when it was written and not when it took its place.

--@ sqlite
create trigger ledger_seal_is_later before insert on ledger_seal
  when (select recorded_us from ledger_journal where id = new.journal_id) < (select recorded_us from ledger_head) begin
  select raise(abort, 'ledger: recorded before the one in front');
end;

--@ postgres
drop trigger ledger_journal_fits on ledger_journal;
drop trigger ledger_posting_fits on ledger_posting;
drop trigger ledger_seal_fits on ledger_seal;
drop trigger ledger_seal_counts on ledger_seal;
drop function ledger_seal_counts();

-- A function in SQL is parsed at every call, one in PL/pgSQL once in a session.
create or replace function ledger_lock() returns table (seq bigint, hash text, recorded_us bigint)
language plpgsql security definer set search_path from current as $$
begin
  return query select h.seq, h.hash, h.recorded_us from ledger_head h for update;
end $$;

-- Each of these reads rows by their keys, whatever the planner thinks of the size of tables: plans outlive it. The price of
-- what is switched off would look as if compiling were worth it.
create or replace function ledger_journal_fits() returns trigger language plpgsql security definer
  set search_path from current set enable_seqscan to off set enable_hashjoin to off set enable_mergejoin to off set jit to off
as $$
declare
  head record;
begin
  -- The head is the lock: whoever writes a journal waits for whoever wrote the last one.
  select seq, hash, recorded_us into head from ledger_head for update;
  if exists (select 1 from added where recorded_us < head.recorded_us) then
    raise exception 'ledger: recorded before the one in front';
  end if;
  if exists (select 1 from added where effective_us <= coalesce((select max(through_us) from ledger_period), -1)) then
    raise exception 'ledger: the period is closed';
  end if;
  if exists (select 1 from added a where a.reverses is not null and not exists
      (select 1 from ledger_journal where id = a.reverses and phase in ('posted', 'post'))) then
    raise exception 'ledger: what it reverses was not posted';
  end if;
  if exists (select 1 from added a where a.resolves is not null and not exists
      (select 1 from ledger_journal where id = a.resolves and phase = 'pending')) then
    raise exception 'ledger: what it resolves is not pending';
  end if;
  return null;
end $$;

create or replace function ledger_posting_fits() returns trigger language plpgsql security definer
  set search_path from current set enable_seqscan to off set enable_hashjoin to off set enable_mergejoin to off set jit to off
as $$
begin
  -- One statement: a journal that another session has not committed is invisible, and so refused.
  if exists (select 1 from added a left join ledger_journal j on j.id = a.journal_id
      left join ledger_seal s on s.journal_id = j.id where j.id is null or s.journal_id is not null) then
    raise exception 'ledger: the journal is missing or sealed';
  end if;
  return null;
end $$;

create or replace function ledger_seal_fits() returns trigger language plpgsql security definer
  set search_path from current set enable_seqscan to off set enable_hashjoin to off set enable_mergejoin to off set jit to off
as $$
declare
  head record;
  broken text;
begin
  if not exists (select 1 from added) then
    return null;
  end if;
  select seq, hash, recorded_us into head from ledger_head for update;
  if exists (select 1 from (
      select seq, prev_hash, lag(seq, 1, head.seq) over chain as seq_before, lag(hash, 1, head.hash) over chain as hash_before
      from added window chain as (order by seq)) a
      where seq <> seq_before + 1 or prev_hash <> hash_before) then
    raise exception 'ledger: the chain breaks' using errcode = '40001';
  end if;
  if exists (select 1 from (
      select j.recorded_us, lag(j.recorded_us, 1, head.recorded_us) over (order by a.seq) as before_us
      from added a join ledger_journal j on j.id = a.journal_id) a where recorded_us < before_us) then
    raise exception 'ledger: recorded before the one in front';
  end if;
  if exists (select 1 from added a where (select count(*) from ledger_posting where journal_id = a.journal_id) < 2) then
    raise exception 'ledger: fewer than 2 postings';
  end if;
  if exists (select 1 from added a join ledger_posting p on p.journal_id = a.journal_id
      group by a.journal_id, p.currency having sum(p.debit) <> sum(p.credit)) then
    raise exception 'ledger: unbalanced';
  end if;
  if exists (select 1 from added a join ledger_journal j on j.id = a.journal_id join ledger_posting p on p.journal_id = j.id
      where p.seq <> a.seq or p.effective_us <> j.effective_us or p.posted <> (j.phase in ('posted', 'post'))::int) then
    raise exception 'ledger: a posting is not its journal''s';
  end if;
  -- What is reversed or resolved was sealed before, though it may be by the same statement.
  if exists (select 1 from added a join ledger_journal j on j.id = a.journal_id where j.reverses is not null and (
      not coalesce((select seq from ledger_seal where journal_id = j.reverses) < a.seq, false)
      or (select count(*) from ledger_posting where journal_id = j.id)
        <> (select count(*) from ledger_posting where journal_id = j.reverses)
      or exists (select account_id, debit, credit from ledger_posting where journal_id = j.id
        except select account_id, credit, debit from ledger_posting where journal_id = j.reverses))) then
    raise exception 'ledger: no mirror of what it reverses';
  end if;
  if exists (select 1 from added a join ledger_journal j on j.id = a.journal_id where j.resolves is not null and (
      not coalesce((select seq from ledger_seal where journal_id = j.resolves) < a.seq, false)
      or (select count(*) from ledger_posting where journal_id = j.id)
        <> (select count(*) from ledger_posting where journal_id = j.resolves)
      or exists (select account_id, debit, credit from ledger_posting where journal_id = j.id
        except select account_id, debit, credit from ledger_posting where journal_id = j.resolves))) then
    raise exception 'ledger: not what was reserved';
  end if;
  update ledger_head h set seq = l.seq, hash = l.hash, recorded_us = l.recorded_us
  from (select a.seq, a.hash, j.recorded_us from added a join ledger_journal j on j.id = a.journal_id
    order by a.seq desc limit 1) l;

  -- An account has one posting of a journal, so the number of the journal puts them in order. A guard holds after each of
  -- them, not only in the end.
  with line as materialized (
    select p.account_id, a.seq, p.debit, p.credit, p.posted, p.effective_us,
      case j.phase when 'pending' then 1 when 'posted' then 0 else -1 end as reserves
    from added a join ledger_journal j on j.id = a.journal_id join ledger_posting p on p.journal_id = j.id),
  run as materialized (
    select l.account_id, l.seq, b.guard,
      (b.debits + sum(l.debit * l.posted) over posts)::bigint as debits,
      (b.credits + sum(l.credit * l.posted) over posts)::bigint as credits,
      (b.debits_pending + sum(l.debit * l.reserves) over posts)::bigint as debits_pending,
      (b.credits_pending + sum(l.credit * l.reserves) over posts)::bigint as credits_pending,
      b.version + row_number() over posts as version
    from line l join ledger_balance b on b.account_id = l.account_id
    window posts as (partition by l.account_id order by l.seq)),
  counted as (
    update ledger_balance b set debits = r.debits, credits = r.credits, debits_pending = r.debits_pending,
      credits_pending = r.credits_pending, version = r.version
    from (select distinct on (account_id) * from run order by account_id, seq desc) r where b.account_id = r.account_id),
  marked as (
    insert into ledger_mark (account_id, seq, debits, credits)
    select account_id, seq, debits, credits from run where version % 256 = 0),
  summed as (
    insert into ledger_hour as h (account_id, hour, debits, credits)
    select account_id, effective_us / 3600000000, sum(debit)::bigint, sum(credit)::bigint from line
    where posted = 1 group by 1, 2 order by 1, 2
    on conflict (account_id, hour)
      do update set debits = h.debits + excluded.debits, credits = h.credits + excluded.credits)
  select case guard when 'credits_ge_debits' then 'ledger_balance_cc' else 'ledger_balance_dc' end into broken from run
  where debits_pending < 0 or credits_pending < 0
    or (guard = 'credits_ge_debits' and credits < debits + debits_pending)
    or (guard = 'debits_ge_credits' and debits < credits + credits_pending)
  limit 1;
  if broken is not null then
    raise exception 'ledger: an account breaks its guard' using errcode = 'check_violation', constraint = broken;
  end if;
  return null;
end $$;

create trigger ledger_journal_fits after insert on ledger_journal referencing new table as added
  for each statement execute function ledger_journal_fits();
create trigger ledger_posting_fits after insert on ledger_posting referencing new table as added
  for each statement execute function ledger_posting_fits();
create trigger ledger_seal_fits after insert on ledger_seal referencing new table as added
  for each statement execute function ledger_seal_fits();
