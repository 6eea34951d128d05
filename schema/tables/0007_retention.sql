-- For how long history is kept. Makes one new table; takes no lock that anybody else waits for, and is safe under load.

create table offstage_private.retention (
  one boolean primary key default true check (one),
  history_days integer not null default 7
);
insert into offstage_private.retention default values;
