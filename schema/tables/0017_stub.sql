-- Who leaves a shared ticket leaves a stub, and the ticket as it is: so nobody writes what others look at in an older snapshot. A ticket and one that such a job gets again
-- may begin at the same job: the key tells them apart. Makes it anew, which locks the table for as long as that takes, a second for a million tickets, and a table. Workers of the version
-- before go on as they were.

create table offstage_private.stub (
  lane_id integer not null,
  ticket bigint not null,                             -- the ticket's job_id
  job_id bigint not null,
  primary key (lane_id, ticket, job_id)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

alter table offstage_private.ticket drop constraint ticket_pkey, add primary key (lane_id, priority, run_at, job_id, jobs);
