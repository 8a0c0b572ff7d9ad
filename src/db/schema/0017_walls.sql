-- What a connection of somebody else's can do on SQLite: `insert or replace` deletes without the triggers that refuse a
-- deletion, unless `pragma recursive_triggers` is on, and it is off wherever nobody asked for it (sqlite3's shell).
-- PostgreSQL has no such statement: `on conflict do update` runs the triggers of an update.

--@ sqlite
create trigger audit_is_new before insert on audit
  when exists (select 1 from audit where id = new.id) begin
  select raise(abort, 'audit: rows are only ever inserted');
end;
create trigger ledger_currency_is_new before insert on ledger_currency
  when exists (select 1 from ledger_currency where code = new.code and exponent <> new.exponent) begin
  select raise(abort, 'ledger: immutable');
end;
-- An account that is replaced opens another balance, which this refuses.
create trigger ledger_balance_is_new before insert on ledger_balance
  when exists (select 1 from ledger_balance where account_id = new.account_id) begin
  select raise(abort, 'ledger: immutable');
end;
create trigger ledger_head_is_new before insert on ledger_head
  when exists (select 1 from ledger_head) begin
  select raise(abort, 'ledger: immutable');
end;
