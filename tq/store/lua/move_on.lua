-- move_on: nothing is to be claimed of a cohort before a later instant, or ever again.
-- ARGV: now, task, cohort, the due entry's instant that the caller saw, the instant from which to
--       look on ('' if the cohort has no members or no task any more), how many occurrences were
--       missed and get no run of their own
-- Returns 1, or 0 if another has moved the entry, or the cohort has got a member meanwhile.
-- include: cohorts
local task, cohort = ARGV[2], ARGV[3]
local member = task .. '|' .. cohort
if redis.call('ZSCORE', K.due(), member) ~= ARGV[4] then return 0 end
if ARGV[5] ~= '' then
  redis.call('ZADD', K.due(), ARGV[5], member)
else
  local _, members = cells_of(task, cohort)
  if members > 0 and redis.call('HEXISTS', K.definitions(), task) == 1 then return 0 end
  redis.call('ZREM', K.due(), member)
end
if tonumber(ARGV[6]) > 0 then redis.call('INCRBY', K.missed(task), ARGV[6]) end
return 1
