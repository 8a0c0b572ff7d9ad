-- What a period closes stays closed, and what the ledger's functions on PostgreSQL read is the ledger.

--@ sqlite
create trigger ledger_period_is_over before insert on ledger_period
  when new.through_us > max((select recorded_us from ledger_head), unixepoch() * 1000000) begin
  select raise(abort, 'ledger: the period is not over');
end;

--@ postgres
create or replace function ledger_period_fits() returns trigger language plpgsql security definer
  set search_path from current as $$
declare
  head record;
begin
  select seq, hash, recorded_us into head from ledger_head for update;
  if new.through_us <= (select max(through_us) from ledger_period) then
    raise exception 'ledger: a later period is closed';
  end if;
  if new.through_us > greatest(head.recorded_us, (extract(epoch from clock_timestamp()) * 1000000)::bigint) then
    raise exception 'ledger: the period is not over';
  end if;
  if new.seq <> head.seq or new.hash <> head.hash then
    raise exception 'ledger: not the end of the chain';
  end if;
  -- A transaction that looked before, and sees what it saw then, is refused when it comes to the head: it would not see that
  -- the period is closed.
  update ledger_head set seq = seq;
  return new;
end $$;
-- A session's temporary tables are found first unless they are named last: whoever may log in could show these functions
-- tables of their own for those of the ledger.
do $$
declare
  f regprocedure;
begin
  for f in select oid::regprocedure from pg_proc
      where pronamespace = cast(current_schema() as regnamespace) and (proname like 'ledger\_%' or proname like 'audit\_%') loop
    execute format('alter function %s set search_path to pg_catalog, %I, pg_temp', f, current_schema());
  end loop;
end $$;
