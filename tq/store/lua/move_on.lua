-- move_on: nothing is to be claimed of cohorts before a later instant, or ever again.
-- ARGV: now, then per cohort five texts: task, cohort, the due entry's instant that the caller saw, the
--       instant from which to look on ('' if the cohort has no members or no task any more), how many
--       occurrences were missed and get no run of their own
-- Returns how many were moved: not those that another has moved, or that have got a member meanwhile.
-- include: cohorts
local function is_gone(task, cohort)
  local _, members = cells_of(task, cohort)
  return members == 0 or redis.call('HEXISTS', K.definitions(), task) == 0
end

local moved = 0
for i = 2, #ARGV, 5 do
  local task, cohort, seen, next_look, missed = unpack(ARGV, i, i + 4)
  local entry = task .. '|' .. cohort
  if redis.call('ZSCORE', K.due(), entry) == seen and (next_look ~= '' or is_gone(task, cohort)) then
    if next_look ~= '' then redis.call('ZADD', K.due(), next_look, entry) else redis.call('ZREM', K.due(), entry) end
    if missed ~= '0' then redis.call('INCRBY', K.missed(task), missed) end
    moved = moved + 1
  end
end
return moved
