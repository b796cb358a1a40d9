-- fan_out: put the next members of a share into their queue, the open set and the ledger, and move
-- the cursor, all in one step. The cursor is the fence: whoever comes second, or comes again after
-- a crash, finds it moved and changes nothing.
-- ARGV: now, run, share, cursor that the distributor saw, the new cursor, 1 if the share is done
--       with it, when to distribute on (ms), members that were passed over because the deadline
--       is past or the run cancelled, how often anybody had left the task when the page was read, results
--       kept per user and task, their life (s), then per job five texts: user, state, queue, message id,
--       message body
-- Returns 'moved' if the cursor was elsewhere, 'stopped' if the run is not running; else how many
-- jobs were put into the queue: a user whose job is open already gets no second one.
-- Who was disabled since the page was read is left out; that is looked up only if anybody has left.
-- Who is paused gets no job, but is expected, and skipped; that is looked up only if anybody is paused.
-- include: now
-- include: places
-- include: enabled
-- include: ledger
-- include: ended_by
-- include: user_pauses
local FIRST_JOB = 12
local run, share, seen, cursor = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local history, ttl_s = tonumber(ARGV[10]), tonumber(ARGV[11])
local run_key, shares_key, open_key = K.run(run), K.shares(run), K.open(run)
if redis.call('HGET', run_key, 'status') ~= 'running' then return 'stopped' end
local there = redis.call('HMGET', shares_key, share .. ':cursor', share .. ':done')
if there[1] ~= seen or there[2] ~= '0' then return 'moved' end

local task, nominal = unpack(redis.call('HMGET', run_key, 'task', 'nominal_at'))
if #ARGV >= FIRST_JOB and redis.call('HEXISTS', run_key, 'cancelled_at') == 1 then return 'stopped' end
local nobody_left = (redis.call('GET', K.departures(task)) or '0') == ARGV[9]
local pauses = {}
if redis.call('EXISTS', K.user_pauses()) == 1 then
  local fields = {}
  for i = FIRST_JOB, #ARGV, 5 do
    table.insert(fields, ARGV[i])
    table.insert(fields, ARGV[i] .. '|' .. task)
  end
  pauses = user_pauses_among(fields, now)
end
local sent, skipped = 0, 0
for i = FIRST_JOB, #ARGV, 5 do
  local user = ARGV[i]
  local is_expected = nobody_left or is_enabled(task, user)
  if is_expected and (pauses[user] or pauses[user .. '|' .. task]) then
    add_result(task, user, unmade(run, 'skipped', 'paused', nominal, 0, now), history, ttl_s)
    skipped = skipped + 1
  elseif is_expected and redis.call('HSETNX', open_key, user, ARGV[i + 1]) == 1 then
    enqueue(ARGV[i + 2], ARGV[i + 3], ARGV[i + 4])
    sent = sent + 1
  end
end
if skipped > 0 then count(run, 'skipped', 'paused', skipped) end
local passed_over = tonumber(ARGV[8])
if passed_over > 0 then
  local status, reason = ended_by(run, task, 0, now)
  count(run, status, reason, passed_over)
end
count(run, 'expected', '', sent + skipped + passed_over)
redis.call('HSET', shares_key, share .. ':cursor', cursor, share .. ':done', ARGV[6])
redis.call('HINCRBY', shares_key, share .. ':open', sent)
-- The earliest wish counts: one share may be waiting for room and another for its next slot.
redis.call('ZADD', K.agenda(), 'XX', 'LT', ARGV[7], 'd|' .. run)
if ARGV[6] == '1' and redis.call('HINCRBY', run_key, 'undone', -1) == 0 then
  redis.call('ZREM', K.agenda(), 'd|' .. run)
  redis.call('HDEL', K.agenda_messages(), 'd|' .. run)
  close_if_done(run, now)
end
return sent
