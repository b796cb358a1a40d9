-- pause_user: pause a user, or one task of a user, or end such a pause.
-- ARGV: now, results kept per user and task, their life (s), user, task ('' for all of them), the pause
--       as JSON without its beginning; '' to end it
-- Open jobs of what is paused end at once as skipped(paused); whom a run has not reached yet, its
-- fan-out skips.
-- Returns 'done'; or why nothing was changed: 'unknown' (there is no such user), 'lacking' (the user
-- never had that task), 'past' (the end of the pause has come already), 'none' (there is none to end).
-- include: now
-- include: places
-- include: enabled
-- include: ledger
-- include: skip
-- include: pauses
-- include: user_pauses
local history, ttl_s, user, task, text = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
local field = task == '' and user or user .. '|' .. task
local there = user_pauses_among({ field }, now)[field]
if text == '' then
  if not there then return 'none' end
  redis.call('HDEL', K.user_pauses(), field)
  return 'done'
end

local record = record_of(user)
if not record then return 'unknown' end
local marks = {}
for mark, its_task in string.gmatch(record, ' (.)(%S+)') do marks[its_task] = mark end
if task ~= '' and not marks[task] then return 'lacking' end
local pause = cjson.decode(text)
if pause['until'] and pause['until'] <= now then return 'past' end
-- Who pauses what is paused changes why, and until when, but not since when nobody is called.
pause.since = there and cjson.decode(there).since or now
redis.call('HSET', K.user_pauses(), field, cjson.encode(pause))
for its_task, mark in pairs(marks) do
  -- A task that is disabled has no open jobs, but for one whose end is about to be recorded.
  local is_enabled = mark == '+' or mark == '*'
  if is_enabled and (task == '' or task == its_task) then
    skip_open_jobs(its_task, user, 'paused', '', now, history, ttl_s)
  end
end
return 'done'
