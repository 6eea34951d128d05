-- A look for what has come due need not step over all that has been due before. Locks no table, and is safe under load. Workers of the version before go on as they were.

drop function if exists offstage.promote(integer);  -- gets "recent"
