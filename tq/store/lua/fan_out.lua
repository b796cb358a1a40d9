-- fan_out: put the next members of a share into their queue, the open set and the ledger, and move
-- the cursor, all in one step. The cursor is the fence: whoever comes second, or comes again after
-- a crash, finds it moved and changes nothing.
-- ARGV: now, run, share, cursor that the distributor saw, the new cursor, 1 if the share is done
--       with it, when to distribute on (ms), members that were passed over because the deadline
--       is past or the run cancelled, how often anybody had left the task when the page was read, results
--       kept per user and task, their life (s), then per batch of jobs their state, their queue, how many
--       they are, and per job three texts: user, message id, message body
-- Returns 'moved' if the cursor was elsewhere, 'stopped' if the run is not running; else how many
-- jobs were put into the queue: a user whose job is open already gets no second one.
-- Who was disabled since the page was read is left out; that is looked up only if anybody has left.
-- Who is paused gets no job, but is expected, and skipped; that is looked up only if anybody is paused.
-- include: now
-- include: places
-- include: enabled
-- include: reach
-- include: ledger
-- include: ended_by
-- include: user_pauses
local FIRST_BATCH = 12
local AT_A_TIME = 500 -- a command's texts pass over a stack of 8,000; and each command has its price
local run, share, seen, cursor = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local history, ttl_s = tonumber(ARGV[10]), tonumber(ARGV[11])
local run_key, shares_key, open_key = K.run(run), K.shares(run), K.open(run)
if redis.call('HGET', run_key, 'status') ~= 'running' then return 'stopped' end
local there = redis.call('HMGET', shares_key, share .. ':cursor', share .. ':done')
if there[1] ~= seen or there[2] ~= '0' then return 'moved' end

local task, nominal = unpack(redis.call('HMGET', run_key, 'task', 'nominal_at'))
if #ARGV >= FIRST_BATCH and redis.call('HEXISTS', run_key, 'cancelled_at') == 1 then return 'stopped' end
local nobody_left = (redis.call('GET', K.departures(task)) or '0') == ARGV[9]
local anybody_paused = redis.call('EXISTS', K.user_pauses()) == 1
local sent, skipped = 0, 0

local function pauses_of(users)
  local fields = {}
  if anybody_paused then
    for _, user in ipairs(users) do
      table.insert(fields, user)
      table.insert(fields, user .. '|' .. task)
    end
  end
  return user_pauses_among(fields, now)
end

-- Puts some jobs of one batch into open set and queue; the texts of the first of them stand at `first`.
local function open_jobs(state, queue, first, jobs)
  local users = {}
  for k = 1, jobs do users[k] = ARGV[first + 3 * (k - 1)] end
  local pauses = pauses_of(users)
  local open = redis.call('HMGET', open_key, unpack(users))
  local opened, states, messages = {}, {}, {}
  local pairs_of = 0
  for k = 1, jobs do
    local user = users[k]
    local is_expected = nobody_left or is_enabled(task, user)
    if is_expected and (pauses[user] or pauses[user .. '|' .. task]) then
      add_result(task, user, unmade(run, 'skipped', 'paused', nominal, 0, now), history, ttl_s)
      skipped = skipped + 1
    -- A user may be on the page twice: listed with the run, and in the cohort again.
    elseif is_expected and not open[k] and not opened[user] then
      opened[user] = true
      states[pairs_of + 1], states[pairs_of + 2] = user, state
      messages[pairs_of + 1], messages[pairs_of + 2] = ARGV[first + 3 * k - 2], ARGV[first + 3 * k - 1]
      pairs_of = pairs_of + 2
    end
  end
  if pairs_of == 0 then return end
  redis.call('HSET', open_key, unpack(states))
  enqueue(queue, unpack(messages))
  sent = sent + pairs_of / 2
end

local i, last = FIRST_BATCH, #ARGV
while i < last do
  local state, queue, jobs = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  for done = 0, jobs - 1, AT_A_TIME do
    open_jobs(state, queue, i + 3 + 3 * done, math.min(AT_A_TIME, jobs - done))
  end
  i = i + 3 + 3 * jobs
end
if skipped > 0 then count(run, 'skipped', 'paused', skipped) end
local passed_over = tonumber(ARGV[8])
if passed_over > 0 then
  local status, reason = ended_by(run, task, 0, now)
  count(run, status, reason, passed_over)
  if status ~= 'cancelled' then note_unreached(run, share, tonumber(seen) + 1) end
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
