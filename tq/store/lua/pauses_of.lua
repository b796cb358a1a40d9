-- pauses_of: what of a user is paused.
-- ARGV: now, user
-- Returns the task ('' for all of them) and the pause (JSON) of each, in turns.
-- include: now
-- include: places
-- include: enabled
-- include: pauses
-- include: user_pauses
local user = ARGV[2]
local fields, tasks = { user }, { [user] = '' }
for task in string.gmatch(record_of(user) or '', ' .(%S+)') do
  local field = user .. '|' .. task
  table.insert(fields, field)
  tasks[field] = task
end
local answer = {}
for field, pause in pairs(user_pauses_among(fields, now)) do
  table.insert(answer, tasks[field])
  table.insert(answer, pause)
end
return answer
