-- publish: put a set of task definitions into force, if it is newer than the one there.
-- ARGV: now, version, fingerprint of the set, then per task: id, definition id, canonical
--       interval, the definition as JSON
-- What an edit changes about when a task is due holds from this instant on: a cohort that follows
-- the task's interval looks for occurrences after now; a task that is gone is due no more; one
-- that is back, or new, is due for whoever has it enabled.
-- Returns 1, or 0 if an equally new or newer set is in force.
-- include: now
-- include: cohorts
local version, fingerprint = tonumber(ARGV[2]), ARGV[3]
local KEPT_S = 100 * 24 * 3600 -- a definition outlives the runs that were claimed with it
local there = redis.call('HMGET', K.published(), 'version', 'fingerprint')
if there[2] == fingerprint then
  if version > tonumber(there[1]) then redis.call('HSET', K.published(), 'version', ARGV[2]) end
  return 1
end
if there[1] and version <= tonumber(there[1]) then return 0 end

local before = {}
local known = redis.call('HGETALL', K.definitions())
for i = 1, #known, 2 do before[known[i]] = known[i + 1] end

-- Takes the cohorts of a task out of the due index: all, or those that follow its interval. They
-- are found through the definition that is in force, so this comes before it changes.
local function unschedule(task, everyone)
  for _, cell in ipairs(redis.call('HKEYS', K.cells(task))) do
    if everyone or string.match(cell, '|default$') then
      local cohort = cohort_of(task, cell)
      if cohort then redis.call('ZREM', K.due(), task .. '|' .. cohort) end
    end
  end
end

local function schedule(task, everyone)
  for _, cell in ipairs(redis.call('HKEYS', K.cells(task))) do
    if everyone or string.match(cell, '|default$') then
      redis.call('ZADD', K.due(), now + 1, task .. '|' .. cohort_of(task, cell))
    end
  end
end

for i = 4, #ARGV, 4 do
  local task, definition, interval, json = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local old = before[task]
  if old then redis.call('EXPIRE', K.definition(string.match(old, '^[^|]*')), KEPT_S) end
  redis.call('SET', K.definition(definition), json)
  local edited = old and string.match(old, '^[^|]*|(.*)$') ~= interval
  if edited then unschedule(task, false) end
  redis.call('HSET', K.definitions(), task, definition .. '|' .. interval)
  if not old or edited then schedule(task, not old) end
  before[task] = nil
end
for task in pairs(before) do
  unschedule(task, true)
  redis.call('EXPIRE', K.definition(string.match(before[task], '^[^|]*')), KEPT_S)
  redis.call('HDEL', K.definitions(), task)
end
redis.call('HSET', K.published(), 'version', ARGV[2], 'fingerprint', fingerprint, 'at', string.format('%d', now))
return 1
