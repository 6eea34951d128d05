-- Errors that are alike, as groups. An attempt that failed has the fingerprint of its error in history, a failed job its last one.

-- The line of an error that tells what happened: the first one; the last one of a Python traceback; of an executable, whose error is how
-- it ended and what it printed at last, how it ended and the last line of that which is no part of a stack: see told_last(). If it
-- was stopped, what it printed says nothing of why.
create or replace function offstage_private.error_line(error text) returns text
language plpgsql immutable as $$
declare
  head text := ltrim(left(error, 1000), E' \t\r\n');
  line text := split_part(head, E'\n', 1);
  ending text;
begin
  if left(line, 12) = 'exit status ' or left(line, 10) = 'killed by ' then
    ending := substring(line from '^(?:exit status \d+|killed by (?:SIG[A-Z0-9]+|signal \d+)(?: \([^)]*\))?): ');
    if ending is not null then
      line := offstage_private.told_last(substr(ltrim(error, E' \t\r\n'), length(ending) + 1));
      if strpos(error, 'Traceback (most recent call last)') = 0 then  -- which says the class by itself
        line := ending || line;
      end if;
    end if;
  elsif strpos(line, 'Traceback (most recent call last)') > 0 then
    line := regexp_replace(right(rtrim(error, E' \t\r\n'), 1000), '^.*\n', '');
  elsif strpos(line, '; it ') > 0 then
    line := coalesce(substring(line from '^(.*?; it (?:was ended by SIG[A-Z0-9]+|was killed(?:, \S+ after SIGTERM)?|cannot be killed)): '), line);
  end if;
  line := rtrim(line, E' \t\r');
  if right(line, 11) = ': set aside' then
    line := regexp_replace(line, ', the third( time)? in a row: set aside$', '');
  end if;
  return ltrim(left(line, 300), E' \t');
end $$;

-- The line of what a program printed before it ended that says why: the panic of a Go program; the last line of a Python traceback, and of
-- all else, that is not indented, as the frames of stacks are, and not what Node says of itself.
create or replace function offstage_private.told_last(output text) returns text
language plpgsql immutable as $$
declare
  lines text[] := string_to_array(right(rtrim(output, E' \t\r\n'), 8000), E'\n');
  last text := lines[cardinality(lines)];
begin
  for i in reverse cardinality(lines) .. 1 loop
    if lines[i] ~ '^(panic|fatal error|Caused by): ' then
      return rtrim(lines[i], E' \t\r');
    end if;
  end loop;
  for i in reverse cardinality(lines) .. 1 loop
    if lines[i] !~ '^\s|^$|^Node\.js v\d|^\.\.\. \d+ ' then
      return rtrim(lines[i], E' \t\r');
    end if;
  end loop;
  return trim(last, E' \t\r');
end $$;

-- What kind of error it is, as far as its line says: TypeError, exit status 3, SQLSTATE 23505, HTTP 503; '' if it does not.
-- What is looked for first is cheap, and most often not there.
create or replace function offstage_private.line_class(line text) returns text
language plpgsql immutable as $$
declare
  class text;
begin
  if strpos(line, 'SQLSTATE') > 0 then
    class := 'SQLSTATE ' || substring(line from 'SQLSTATE[ :=]*([0-9A-Z]{5})\M');
  end if;
  if class is null and line ~ '^[A-Z]|^[A-Za-z_$][\w$]*(?:\.|::)' then
    class := substring(line from '^(?:Uncaught )?((?:[A-Za-z_$][\w$]*(?:\.|::))*[A-Z][\w$]*)(?: \[\w+\])?(?::|$)');
  end if;
  if class is null and left(line, 1) in ('e', 'k', 'p', 'c') then
    class := substring(line from '^(exit status \d+|killed by SIG[A-Z0-9]+|killed by signal \d+|panic|context deadline exceeded|context canceled)\M');
  end if;
  if class is null and (strpos(line, 'tatus') > 0 or strpos(line, 'HTTP') > 0) then
    class := 'HTTP ' || substring(line from '(?:HTTP(?:/[\d.]+)?|[Ss]tatus(?: code)?)[ :=]+([1-5]\d\d)\M');
  end if;
  if class is null and left(line, 7) = 'worker ' then
    class := 'worker ' || substring(line from '^worker \d+ \(.*\) (died) during');
  end if;
  return coalesce(class, '');
end $$;

-- The line without what differs from job to job: numbers, identifiers, quoted text, paths, addresses, times.
create or replace function offstage_private.normalised_line(line text) returns text
language plpgsql immutable as $$
declare
  l text := line;
begin
  if strpos(l, '"') > 0 or strpos(l, '''') > 0 or strpos(l, '`') > 0 then
    l := regexp_replace(l, '(?<!\w)(?:"[^"]*"|''[^'']*''|`[^`]*`)(?!\w)', '<text>', 'g');
  end if;
  if strpos(l, '@') > 0 then
    l := regexp_replace(l, '[\w.+-]+@[\w-]+(?:\.[\w-]+)+', '<email>', 'g');
  end if;
  if strpos(l, '/') > 0 or strpos(l, '\') > 0 then
    l := regexp_replace(l, '\m[A-Za-z][A-Za-z0-9+.-]*://[^\s)>]+', '<url>', 'g');
    l := regexp_replace(l, '(?<![\w<>])(?:~?/|\.{1,2}/|[A-Za-z]:\\)[\w.@%+~-]+(?:[/\\][\w.@%+~-]+)*[/\\]?(?::\d+)*', '<path>', 'g');
  end if;
  if l ~ '\d' then
    if strpos(l, '-') > 0 then
      l := regexp_replace(l, '\m[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\M', '<uuid>', 'g');
      l := regexp_replace(l, '\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?: ?(?:Z|[+-]\d\d(?::?\d\d)?))?)?', '<time>', 'g');
    end if;
    if l ~ '[0-9a-fA-F]{8}|0x' then
      l := regexp_replace(l, '\m0x[0-9a-fA-F]+\M|\m(?=[a-fA-F]*\d)(?=\d*[a-fA-F])[0-9a-fA-F]{8,}\M', '<hex>', 'g');
    end if;
    l := regexp_replace(l, case when l ~ '[Ss]tatus|code|SQLSTATE|HTTP'  -- those say what it is
      then '(?<![Ss]tatus |[Ss]tatus: |code |code: |SQLSTATE |HTTP |\d|\.)\d+(?:\.\d+)*' else '\d+(?:\.\d+)*' end, '<n>', 'g');
  end if;
  return l;
end $$;

create or replace function offstage_private.error_class(error text) returns text
language plpgsql immutable as $$ begin return offstage_private.line_class(coalesce(offstage_private.error_line(error), '')); end $$;

create or replace function offstage_private.normalised(error text) returns text
language plpgsql immutable as $$ begin return offstage_private.normalised_line(coalesce(offstage_private.error_line(error), '')); end $$;

-- The same for all errors of a task that are alike: twelve hexadecimal digits.
create or replace function offstage_private.fingerprint(task text, error text) returns text
language plpgsql immutable as $$
declare
  line text := coalesce(offstage_private.error_line(error), '');
begin
  return left(md5(concat_ws(E'\n', task, offstage_private.line_class(line), offstage_private.normalised_line(line))), 12);
end $$;

-- The beginning of an error, or the line that tells what happened if it is another one.
create or replace function offstage_private.error_sample(error text) returns text
language sql immutable as $$
  select case when starts_with(split_part(ltrim(left(error, 1000), E' \t\r\n'), E'\n', 1), l.line) then left(error, 300) else l.line end
  from (select offstage_private.error_line(error) as line) l
$$;

-- All that is known of the errors with these fingerprints, in their order, by one statement: to begin with all partitions takes longer than to
-- look into them. Counts stop at "most". No row for one of which there is none any more.
create or replace function offstage_private.error_groups(fingerprints text[], most integer)
returns table (
  fingerprint text, task text, class text, message text, sample text, first_seen timestamptz, last_seen timestamptz,
  hour bigint, day bigint, week bigint, failed bigint, counted_to integer, last_job bigint
)
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
  at timestamptz := offstage_private.clock();
begin
  return query
    select f.print, t.name, offstage_private.error_class(l.error), offstage_private.normalised(l.error), offstage_private.error_sample(l.error),
      coalesce((select h.settled_at from offstage_private.history h where h.fingerprint = f.print order by h.settled_at limit 1), l.settled_at),
      l.settled_at, c.hour, c.day, c.week,
      (select count(*) from (select from offstage_private.job j where j.failed and j.fingerprint = f.print limit most) x), most, l.job_id
    from unnest(fingerprints) with ordinality f (print, n)
    cross join lateral (
      (select h.settled_at, h.job_id, h.task_id, h.error from offstage_private.history h
       where h.fingerprint = f.print order by h.settled_at desc limit 1)
      union all  -- of what history has not, or not any more
      (select j.updated_at, j.id, j.task_id, j.last_error from offstage_private.job j
       where j.failed and j.fingerprint = f.print order by j.id desc limit 1)
      limit 1
    ) l
    cross join lateral (select o.name from offstage_private.task o where o.id = l.task_id limit 1) t
    cross join lateral (
      select count(*) filter (where s.settled_at > at - interval '1 hour') as hour, count(*) filter (where s.settled_at > at - interval '1 day') as day,
        count(*) as week
      from (
        select h.settled_at from offstage_private.history h
        where h.fingerprint = f.print and h.settled_at > at - interval '7 days' order by h.settled_at desc limit most) s
    ) c
    order by f.n;
end $$;

create or replace function offstage_private.error_group(of_fingerprint text, most integer)
returns table (
  fingerprint text, task text, class text, message text, sample text, first_seen timestamptz, last_seen timestamptz,
  hour bigint, day bigint, week bigint, failed bigint, counted_to integer, last_job bigint
)
language sql stable as $$ select g.* from offstage_private.error_groups(array[of_fingerprint], most) g $$;

-- Errors that are alike, as groups, of one task if wanted, the last seen first: what kind it is (class, '' if nobody knows), the
-- message without what differs from job to job, the error of the last job (its first 300 characters, or the line that tells), when such an error was
-- first and last seen in what history keeps, in how many attempts in the last hour, day and week, and how many jobs are there that
-- have failed with it. Counts stop at counted_to. Looks at about a thousand groups of the latest days, and answers at most max_rows of them. The jobs
-- of a group: those whose fingerprint it is. Locks nothing.
create or replace function offstage.errors(task text default null, max_rows integer default 100)
returns table (
  fingerprint text, task_identifier text, class text, message text, sample text, first_seen timestamptz, last_seen timestamptz,
  hour bigint, day bigint, week bigint, failed bigint, counted_to integer, last_job bigint
)
language plpgsql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
as $$
#variable_conflict use_column
declare
  wanted integer := least(greatest(max_rows, 1), 1000);
  of_task integer := (select t.id from offstage_private.task t where t.name = $1);
  prints text[] := '{}';
  ats timestamptz[] := '{}';
  tasks integer[] := '{}';
  chosen text[];
  part record;
  f record;
begin
  -- Each fingerprint once, a step of the index for each, from the latest day to the first; of the jobs those, too, of which history
  -- has nothing.
  for part in
    select 'history' as kind, c.relname from pg_catalog.pg_inherits i join pg_catalog.pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'offstage_private.history'::regclass
    union all select 'job', 'job'
    order by 1, 2 desc
  loop
    execute format($q$
      with recursive step (fingerprint) as (
        (select x.fingerprint from offstage_private.%1$I x where x.fingerprint is not null and %2$s order by x.fingerprint limit 1)
        union all
        select (select x.fingerprint from offstage_private.%1$I x where x.fingerprint > s.fingerprint and %2$s order by x.fingerprint limit 1)
        from step s where s.fingerprint is not null
      )
      select array_agg(s.fingerprint) as prints, array_agg(l.at) as ats, array_agg(l.task_id) as tasks
      from (select o.fingerprint from step o where o.fingerprint is not null limit 1000) s
      cross join lateral (select x.%3$I as at, x.task_id from offstage_private.%1$I x where x.fingerprint = s.fingerprint and %2$s order by x.%4$I desc limit 1) l $q$,
      part.relname, case part.kind when 'job' then 'x.failed' else 'true' end, case part.kind when 'job' then 'updated_at' else 'settled_at' end,
      case part.kind when 'job' then 'id' else 'settled_at' end)
    into f;
    prints := prints || f.prints;
    ats := ats || f.ats;
    tasks := tasks || f.tasks;
    exit when cardinality(prints) >= 1000;
  end loop;
  chosen := array(
    select u.fingerprint from unnest(prints, ats, tasks) u (fingerprint, at, task_id)
    where $1 is null or u.task_id = of_task
    group by u.fingerprint order by max(u.at) desc, u.fingerprint limit wanted);
  return query
    select g.* from offstage_private.error_groups(chosen, least(10000, greatest(200, 20000 / greatest(cardinality(chosen), 1)))) g;
end $$;
