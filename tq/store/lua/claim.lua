-- claim: make a run for one nominal instant, once, whoever else claims at the same time.
-- ARGV: now, run, task, kind, nominal (ms), definition id, overlap policy, in how many ms to distribute,
--       queue, id and body of the distribution's message,
--       then per share seven texts: cohort, the due entry's instant that the claimer saw ('' if it
--       needs none), the instant from which to look on, start, spread, deadline (ms), the reason
--       for which it is skipped ('' if it is not)
-- The due entry is the fence: a share whose entry has moved was claimed by another.
-- An occurrence that lies in a pause is skipped, also if that is over; one that fell due before it is a run
-- that waits.
-- A scheduled run that exists gets the shares that it lacks; one that was asked for exists once.
-- Returns how many shares were claimed, and how many of them are to be carried out.
-- include: now
-- include: cohorts
-- include: ledger
-- include: past_pauses
local run, task, kind, nominal = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local definition, overlap = ARGV[6], ARGV[7]
local run_key, shares_key = K.run(run), K.shares(run)
local claimed, live, latest_deadline, reason_seen = 0, 0, 0, ''

-- Whether a share of the last run still has something to do.
local function has_ended(other, index)
  if redis.call('HGET', K.run(other), 'status') ~= 'running' then return true end
  local done, open = unpack(redis.call('HMGET', K.shares(other), index .. ':done', index .. ':open'))
  return done == '1' and tonumber(open) == 0
end

-- What becomes of this share because of the last run of the same users: nil, or why it is skipped.
local function overlapping(cohort)
  local last = redis.call('HGET', K.last(task), cohort)
  if not last then return nil end
  local other, index = string.match(last, '^(.*)|(%d+)$')
  if other == run or has_ended(other, index) then return nil end
  if overlap == 'skip' then return 'overlap' end
  if overlap == 'replace' then
    local field = index .. ':deadline'
    local deadline = tonumber(redis.call('HGET', K.shares(other), field) or '0')
    if deadline > now then redis.call('HSET', K.shares(other), field, string.format('%d', now)) end
  end
  return nil
end

-- What becomes of an occurrence because operators had paused its task, or everything: the same.
local function paused()
  for _, scope in ipairs({ task, '*' }) do
    if was_paused(scope, tonumber(nominal)) then return 'paused' end
  end
  return nil
end

local function take_due(cohort, seen, next_look)
  if seen == '' then return true end
  local member = task .. '|' .. cohort
  if redis.call('ZSCORE', K.due(), member) ~= seen then return false end
  redis.call('ZADD', K.due(), next_look, member)
  return true
end

if kind ~= 'schedule' and redis.call('EXISTS', run_key) == 1 then return { 0, 0 } end
local shares = tonumber(redis.call('HGET', run_key, 'shares') or '0')
local first_new = shares
for i = 12, #ARGV, 7 do
  local cohort, seen, next_look = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local start, spread, deadline, skip = ARGV[i + 3], ARGV[i + 4], ARGV[i + 5], ARGV[i + 6]
  if take_due(cohort, seen, next_look) then
    if kind == 'schedule' then skip = paused() or (skip ~= '' and skip) or overlapping(cohort) or '' end
    local prefix = shares .. ':'
    redis.call('HSET', shares_key, prefix .. 'cohort', cohort, prefix .. 'cursor', '-1', prefix .. 'start', start,
      prefix .. 'spread', spread, prefix .. 'deadline', deadline, prefix .. 'done', skip == '' and '0' or '1', prefix .. 'open', 0)
    if skip == '' then
      live = live + 1
      if kind == 'schedule' then redis.call('HSET', K.last(task), cohort, run .. '|' .. shares) end
    else
      local _, members = cells_of(task, cohort)
      count(run, 'expected', '', members)
      count(run, 'skipped', skip, members)
      reason_seen = skip
    end
    latest_deadline = math.max(latest_deadline, tonumber(deadline))
    claimed, shares = claimed + 1, shares + 1
  end
end
if claimed == 0 then return { 0, 0 } end

if first_new == 0 then
  redis.call('HSET', run_key, 'task', task, 'kind', kind, 'nominal_at', nominal,
    'claimed_at', string.format('%d', now), 'definition', definition)
  redis.call('ZADD', K.runs(), now, run)
  redis.call('ZADD', K.runs_of(task), now, run)
  local oldest = now - RUN_RETENTION_S * 1000
  redis.call('ZREMRANGEBYSCORE', K.runs(), '-inf', oldest)
  redis.call('ZREMRANGEBYSCORE', K.runs_of(task), '-inf', oldest)
end
latest_deadline = math.max(latest_deadline, tonumber(redis.call('HGET', run_key, 'deadline_at') or '0'))
redis.call('HSET', run_key, 'shares', shares, 'deadline_at', string.format('%d', latest_deadline))
redis.call('HINCRBY', run_key, 'undone', live)
if live > 0 then
  redis.call('HSET', run_key, 'status', 'running')
  redis.call('HDEL', run_key, 'ended_at', 'reason')
  redis.call('PERSIST', run_key)
  redis.call('PERSIST', shares_key)
  for share = first_new, shares - 1 do redis.call('PERSIST', K.members(run, share)) end
  redis.call('SADD', K.active(task), run)
  redis.call('SADD', K.running(), run)
  redis.call('ZADD', K.agenda(), now + tonumber(ARGV[8]), 'd|' .. run)
  redis.call('HSET', K.agenda_messages(), 'd|' .. run, ARGV[9] .. '\n' .. ARGV[10] .. '\n' .. ARGV[11])
  if tonumber(ARGV[8]) == 0 then redis.call('PUBLISH', K.wake(), 'agenda') end
elseif redis.call('HEXISTS', run_key, 'status') == 0 then
  redis.call('HSET', run_key, 'status', 'skipped', 'reason', reason_seen, 'ended_at', string.format('%d', now))
  redis.call('EXPIRE', run_key, RUN_RETENTION_S)
  redis.call('EXPIRE', shares_key, RUN_RETENTION_S)
end
return { claimed, live }
