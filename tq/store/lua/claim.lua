-- claim: make a run for one nominal instant, once, whoever else claims at the same time.
-- ARGV: now, run, task, kind, nominal (ms), definition id, overlap policy, in how many ms to distribute,
--       queue, id and body of the distribution's message,
--       then per share seven texts: cohort, the due entry's instant that the claimer saw ('' if it
--       needs none), the instant from which to look on, start, spread, deadline (ms), the reason
--       for which it is skipped ('' if it is not)
-- The due entry is the fence: a share whose entry has moved was claimed by another.
-- An occurrence that lies in a pause is skipped, also if that is over; one that fell due before it is a run
-- that waits.
-- A share begins where the last run of the same users was cut, if it was: with those whom that did not reach.
-- A scheduled run that exists gets the shares that it lacks; one that was asked for exists once.
-- Returns how many shares were claimed, and how many of them are to be carried out.
-- include: now
-- include: places
-- include: cohorts
-- include: reach
-- include: ledger
-- include: past_pauses
local FIRST_SHARE, TEXTS = 12, 7
local A_MOMENT_MS = 60 * 1000 -- between two ticks
local run, task, kind, nominal = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local definition, overlap = ARGV[6], ARGV[7]
local run_key, shares_key = K.run(run), K.shares(run)
if kind ~= 'schedule' and redis.call('EXISTS', run_key) == 1 then return { 0, 0 } end

-- What has to be known, read for all shares at once ------------------------------------------

local cohorts, entries = {}, {}
for i = FIRST_SHARE, #ARGV, TEXTS do
  table.insert(cohorts, ARGV[i])
  table.insert(entries, task .. '|' .. ARGV[i])
end
local due_at = redis.call('ZMSCORE', K.due(), unpack(entries))
local last = redis.call('HMGET', K.last(task), unpack(cohorts))

-- The runs of the same users that were claimed last: of each cohort's share in its run, where in what
-- `shares` says of it these fields begin.
local FIELDS = { ':done', ':open', ':deadline', ':cursor', ':first', ':unreached' }
local others, place_of_share = {}, {}
for k = 1, #cohorts do
  local other, index = string.match(last[k] or '', '^(.*)|(%d+)$')
  if other and other ~= run then
    if not others[other] then
      local status, cancelled_at = unpack(redis.call('HMGET', K.run(other), 'status', 'cancelled_at'))
      others[other] = { is_running = status == 'running', is_cancelled = cancelled_at, fields = {}, cut = {} }
    end
    local fields = others[other].fields
    place_of_share[k] = { run = other, index = index, at = #fields }
    for _, field in ipairs(FIELDS) do fields[#fields + 1] = index .. field end
  end
end
for other, its in pairs(others) do its.shares = redis.call('HMGET', K.shares(other), unpack(its.fields)) end

-- What becomes of an occurrence because operators had paused its task, or everything: the same.
local function paused()
  for _, scope in ipairs({ task, '*' }) do
    if was_paused(scope, tonumber(nominal)) then return 'paused' end
  end
  return ''
end
local skip_all = kind == 'schedule' and paused() or ''

-- What becomes of a share because of the last run of the same users: '', or why it is skipped.
local function overlapping(k)
  local share = place_of_share[k]
  if not share or not others[share.run].is_running then return '' end
  local other = others[share.run]
  local done, open, deadline = unpack(other.shares, share.at + 1, share.at + 3)
  if done == '1' and tonumber(open) == 0 then return '' end
  if overlap == 'skip' then return 'overlap' end
  if overlap == 'replace' and tonumber(deadline or '0') > now then
    table.insert(other.cut, share.index .. ':deadline')
    table.insert(other.cut, string.format('%d', now))
  end
  return ''
end

local calls
-- How many jobs of all tasks are being called now.
local function calls_under_way()
  if not calls then
    calls = 0
    for _, process in ipairs(workers()) do calls = calls + redis.call('SCARD', K.begun(process)) end
  end
  return calls
end

-- Of a run's open jobs those of which no call has ended: per share how many they are, and the first position.
local function not_called(run, its)
  if its.not_called then return its.not_called end
  its.not_called = {}
  local open = redis.call('HGETALL', K.open(run))
  for i = 1, #open, 2 do
    local attempt, share = string.match(open[i + 1], '^(%d+)|%d+|(%d+)|')
    if attempt == '1' then
      local found = its.not_called[share]
      if not found then
        found = { jobs = 0, order = tonumber(redis.call('HGET', K.shares(run), share .. ':first') or '0') }
        its.not_called[share] = found
      end
      found.jobs = found.jobs + 1
      local position = position_of(place_of(task .. '|' .. open[i]), found.order)
      -- Whoever came first of all has had a turn: a call that always hangs holds no row of runs at one place.
      if (position > 0 or calls_under_way() == 0) and position < (found.first or PLACES) then found.first = position end
    end
  end
  return its.not_called
end

-- The place at which a share's order begins: 0, unless the last run of the same users was, or is now, cut.
local function first_place(k)
  local share = place_of_share[k]
  if not share then return 0 end
  local other = others[share.run]
  local done, open, deadline, cursor, first, unreached = unpack(other.shares, share.at + 1, share.at + #FIELDS)
  if not done then return 0 end -- so long ago that it is not kept
  first = tonumber(first or '0')
  -- What was cancelled counts as if it had not been.
  if other.is_cancelled then return first end
  local is_over = tonumber(deadline) <= now or overlap == 'replace'
  -- A run beside which others may go is not cut by them; but its deadline may come a moment later than they do.
  if not is_over and tonumber(deadline) > now + A_MOMENT_MS then return 0 end
  local stopped = tonumber(unreached or PLACES)
  if done ~= '1' then stopped = math.min(stopped, tonumber(cursor) + 1) end
  if other.is_running and tonumber(open) > 0 then
    local left = not_called(share.run, other)[share.index]
    -- When all have been sent, and no more are left than may be being called just now, everybody is reached.
    if left and left.first and (done ~= '1' or left.jobs > calls_under_way()) then
      stopped = math.min(stopped, left.first)
    end
  end
  if stopped >= PLACES then return 0 end
  note_unreached(share.run, share.index, stopped)
  return (first + stopped) % PLACES
end

-- The shares ----------------------------------------------------------------------------------

local shares = tonumber(redis.call('HGET', run_key, 'shares') or '0')
local first_new = shares
local claimed, live, latest_deadline, reason_seen = 0, 0, 0, ''
local taken, told, begun_at, latest, skipped = {}, {}, {}, {}, {}
for k = 1, #cohorts do
  local i = FIRST_SHARE + TEXTS * (k - 1)
  local seen, next_look, start, spread, deadline, skip = unpack(ARGV, i + 1, i + 6)
  if seen == '' or due_at[k] == seen then
    if seen ~= '' then
      local n = #taken
      taken[n + 1], taken[n + 2] = next_look, entries[k]
    end
    if kind == 'schedule' then
      if skip_all ~= '' then skip = skip_all elseif skip == '' then skip = overlapping(k) end
    end
    local n, prefix = #told, shares .. ':'
    told[n + 1], told[n + 2] = prefix .. 'cohort', cohorts[k]
    told[n + 3], told[n + 4] = prefix .. 'cursor', '-1'
    told[n + 5], told[n + 6] = prefix .. 'start', start
    told[n + 7], told[n + 8] = prefix .. 'spread', spread
    told[n + 9], told[n + 10] = prefix .. 'deadline', deadline
    told[n + 11], told[n + 12] = prefix .. 'done', skip == '' and '0' or '1'
    told[n + 13], told[n + 14] = prefix .. 'open', '0'
    if skip == '' then
      local first = kind == 'schedule' and first_place(k) or 0
      if first > 0 then
        table.insert(begun_at, prefix .. 'first')
        table.insert(begun_at, string.format('%d', first))
      end
      latest[2 * live + 1], latest[2 * live + 2] = cohorts[k], run .. '|' .. shares
      live = live + 1
    else
      table.insert(skipped, { cohort = cohorts[k], reason = skip })
      reason_seen = skip
    end
    latest_deadline = math.max(latest_deadline, tonumber(deadline))
    claimed, shares = claimed + 1, shares + 1
  end
end
if claimed == 0 then return { 0, 0 } end

if #taken > 0 then redis.call('ZADD', K.due(), unpack(taken)) end
redis.call('HSET', shares_key, unpack(told))
if #begun_at > 0 then redis.call('HSET', shares_key, unpack(begun_at)) end
if kind == 'schedule' and live > 0 then redis.call('HSET', K.last(task), unpack(latest)) end
for other, its in pairs(others) do
  if #its.cut > 0 then redis.call('HSET', K.shares(other), unpack(its.cut)) end
end
if first_new == 0 then
  redis.call('HSET', run_key, 'task', task, 'kind', kind, 'nominal_at', nominal,
    'claimed_at', string.format('%d', now), 'definition', definition)
  redis.call('HINCRBY', K.totals(), task .. '|' .. kind .. '|runs', 1)
  redis.call('ZADD', K.runs(), now, run)
  redis.call('ZADD', K.runs_of(task), now, run)
  local oldest = now - RUN_RETENTION_S * 1000
  redis.call('ZREMRANGEBYSCORE', K.runs(), '-inf', oldest)
  redis.call('ZREMRANGEBYSCORE', K.runs_of(task), '-inf', oldest)
end
if #skipped > 0 then
  local members = members_by_cohort(task)
  for _, share in ipairs(skipped) do
    count(run, 'expected', '', members[share.cohort] or 0)
    count(run, 'skipped', share.reason, members[share.cohort] or 0)
  end
end

latest_deadline = math.max(latest_deadline, tonumber(redis.call('HGET', run_key, 'deadline_at') or '0'))
redis.call('HSET', run_key, 'shares', shares, 'deadline_at', string.format('%d', latest_deadline))
redis.call('HINCRBY', run_key, 'undone', live)
if live > 0 then
  redis.call('HSET', run_key, 'status', 'running')
  redis.call('HDEL', run_key, 'ended_at', 'reason')
  redis.call('PERSIST', run_key)
  redis.call('PERSIST', shares_key)
  -- A run that was asked for may have its users listed before it is claimed.
  if kind ~= 'schedule' then redis.call('PERSIST', K.members(run, 0)) end
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
