-- limiter: how calls came out, what that means for the rates, and slots for the calls to come; all in
-- one step, so that no two processes ever hold the same slot.
--
-- A slot is an instant at which one call may begin. Slots of all tasks lie at least 1/rate apart, and
-- those of one task 1/(its rate), give or take one of the others (the generic cell rate algorithm, ITU-T I.371), so that
-- nothing ever bursts, whoever holds them. They are handed out ahead of time, a quarter of a second's
-- worth at most to a process and never more than two seconds ahead: what a process that dies takes with
-- it is lost for that long. Where a task's own rate leaves time unused, other tasks get it (`gaps`).
-- Tasks that want the same instant take turns by weight (start-time fair queueing, Goyal 1996).
-- Instants are by Redis' own clock and travel as delays, which a process counts from the answer's
-- arrival: so a call can come late by that, and never early.
--
-- ARGV[1] now (ms, may have a fraction; 0 for Redis' own)   ARGV[2] the request as JSON:
--   { process, everything = limit, slots = how many at most, waiting, in_use,
--     tasks = { { task, limit, ask, weight, waiting, in_use, unused, ended = { place, .. }, counts = { .. },
--                 reports = { { ok, overload, error, seconds, epoch, probe, hold, throttled }, .. } }, .. } }
--   a limit is { strategy, floor, base, ceiling, concurrency, patience, own }; hold is the wait that the
--   endpoint asked for, -1 if it asked for none.
-- Returns JSON: see Answer in tq/store/limits.py.
local now = tonumber(ARGV[1]) / 1000
if now == 0 then
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1e6
end
-- include: error_rates
-- include: scopes
local LEASE_S, LONGEST_LEASE = 0.25, 100
local AHEAD_S = 2
local MOST_GAPS = 128  -- a lease of a slow task leaves one between any two of its slots
local ROUNDING_S = 1e-6  -- seconds since 1970 are known to a quarter of a microsecond
local ASK_AGAIN_S, PAUSED_S = 1, 5
local PACED = 0.98  -- of the rate: calls that are late must not show as more than it at the endpoint
local ALL = '*'

local request = cjson.decode(ARGV[2])
local events = {}
local function tell(scope, epoch) table.insert(events, { scope, epoch }) end

local all_limit = in_force(request.everything, order_of(ALL))
local all = load_scope(ALL, all_limit)
all.gaps, all.busy = all.gaps or {}, all.busy or {}
all.seen[request.process] = { at = now, waiting = request.waiting, in_use = request.in_use }

-- A rate that has risen holds from the last slot on, not only after the wait that the old one asked for.
local function follow_rate(s)
  if s.last then s.next = math.max(s.held_until, math.min(s.next, s.last + 1 / (PACED * s.rate))) end
end

-- When the next slot of a task may be. One that may have all that there is keeps its distance anyway.
local function earliest(s)
  if s.rate >= 0.999 * all.rate then return math.max(now, s.held_until) end
  return math.max(now, s.next)
end

-- 1. Take in what was reported, and let each scope end its window.
local asking = {}
for i, t in ipairs(request.tasks) do
  local limit = in_force(t.limit, order_of(t.task), all_limit)
  local s = load_scope(t.task, limit)
  for _, r in ipairs(t.reports) do
    local report = { ok = r[1], overload = r[2], error = r[3], seconds = r[4], epoch = r[5], probe = r[6] == 1 }
    local news = hear(s, limit, report)
    if r[7] >= 0 then news = hold(s, limit, r[7], r[8] == 1) or news end
    if news then tell(t.task, s.epoch) end
  end
  s.granted = math.max(0, s.granted - t.unused)
  if #t.counts > 0 then
    count_outcomes(t.task, now, t.counts)
    count_outcomes(ALL, now, t.counts)
  end
  if s.rate_is_learned and control(s, limit) then tell(t.task, s.epoch) end
  set_rate(s, limit, t.task)
  follow_rate(s)
  for _, place in ipairs(t.ended) do redis.call('ZREM', K.places(t.task), place) end
  if s.breaker == 'open' and now >= s.until_ then
    s.breaker, s.probes_out, s.good_probes = 'half_open', 0, 0
  elseif s.breaker == 'half_open' and s.probes_out > 0 and now - s.probe_at > limit.patience then
    s.probes_out = 0  -- whoever made it is dead
  end
  s.seen[request.process] = (t.waiting > 0 or t.in_use > 0) and { at = now, waiting = t.waiting, in_use = t.in_use } or nil
  for process, seen in pairs(s.seen) do
    if seen.at < now - SEEN_S then s.seen[process] = nil end
  end
  if t.waiting > 0 then all.busy[t.task] = now end
  asking[i] = { task = t.task, limit = limit, s = s, left = t.ask, weight = t.weight, wait = 0, freed = #t.ended > 0 }
end
set_rate(all, all_limit, ALL)
follow_rate(all)
for task, at in pairs(all.busy) do
  if at < now - SEEN_S then all.busy[task] = nil end
end
local processes = 0
for process, seen in pairs(all.seen) do
  if seen.at < now - SEEN_S then all.seen[process] = nil else processes = processes + 1 end
end

-- 2. Whoever must wait is told for how long. Where other tasks' slots are far ahead the next question comes
-- late; what a task gets has to last until then.
local lead = math.max(0, all.next - now)
local everything_paused = pause_of(ALL)
local in_lane = {}
for _, a in ipairs(asking) do
  a.paused = everything_paused or pause_of(a.task)
  if a.left > 0 then
    local s = a.s
    if a.paused then a.wait = PAUSED_S
    elseif s.breaker == 'open' then a.wait = s.until_ - now
    elseif s.held_until > now then a.wait = s.held_until - now
    elseif s.breaker == 'half_open' then
      if s.probes_out > 0 then a.wait = ASK_AGAIN_S else a.left = 1 end
    elseif s.next - now > AHEAD_S then a.wait = s.next - now - AHEAD_S / 2
    else
      local unserved = math.max(0, lead - math.max(0, s.next - now))
      a.left = math.min(a.left, math.ceil(s.rate * (LEASE_S + unserved)))
    end
    if a.limit.concurrency > 0 and a.wait == 0 then
      redis.call('ZREMRANGEBYSCORE', K.places(a.task), '-inf', now)
      a.left = math.min(a.left, a.limit.concurrency - redis.call('ZCARD', K.places(a.task)))
      if a.left <= 0 then a.wait = ASK_AGAIN_S end
    end
    if a.wait > 0 then a.left = 0 else in_lane[a.weight] = (in_lane[a.weight] or 0) + 1 end
  end
end

-- 3. Hand out slots.
local apart = 1 / (PACED * all.rate)
-- The first instant from `from` on that is whole slots away from `start`: what is left in between is of use.
local function on_grid(start, from)
  return start + math.max(0, math.ceil((from - start) / apart - 0.01)) * apart
end

-- The first instant from this one on that is free among all tasks' slots, and the gap in which it lies, if in any.
local function free_instant(from)
  -- They lie one after the other: those that end too early are passed over by halves.
  local gaps = all.gaps
  local first, last = 1, #gaps
  while first <= last do
    local middle = math.floor((first + last) / 2)
    if from + 0.99 * apart <= gaps[middle][2] + ROUNDING_S then last = middle - 1 else first = middle + 1 end
  end
  for i = first, #gaps do
    local gap = gaps[i]
    local at = on_grid(gap[1], from)
    if at + apart <= gap[2] + ROUNDING_S then return at, i end
  end
  return on_grid(math.max(all.next, now), from)
end

local function take_instant(at, i)
  if i then
    local gap = table.remove(all.gaps, i)
    if gap[2] - (at + apart) >= apart - ROUNDING_S then table.insert(all.gaps, i, { at + apart, gap[2] }) end
    if at - gap[1] >= apart - ROUNDING_S then table.insert(all.gaps, i, { gap[1], at }) end
    return
  end
  local free = math.max(all.next, now)
  if at - free >= apart - ROUNDING_S and #all.gaps < MOST_GAPS then table.insert(all.gaps, { free, at }) end
  all.next = at + apart
end

while all.gaps[1] and all.gaps[1][2] <= now do table.remove(all.gaps, 1) end
if all.gaps[1] and all.gaps[1][1] < now then all.gaps[1][1] = now end
local grants = {}
local budget = math.min(request.slots, LONGEST_LEASE, math.max(1, math.floor(all.rate * LEASE_S)))
while budget > 0 do
  local free = all.gaps[1] and all.gaps[1][1] or math.max(all.next, now)
  local chosen, chosen_at, chosen_turn
  for i, a in ipairs(asking) do
    if a.left > 0 then
      local at, turn = math.max(free, earliest(a.s)), math.max(all.turn, a.s.turn)
      if not chosen or at < chosen_at or (at == chosen_at and turn < chosen_turn) then
        chosen, chosen_at, chosen_turn = i, at, turn
      end
    end
  end
  if not chosen then break end
  local a = asking[chosen]
  local s = a.s
  local at, gap = free_instant(earliest(s))
  if at - now > AHEAD_S then
    a.left, a.wait = 0, math.max(0.01, at - now - AHEAD_S / 2)
  else
    take_instant(at, gap)
    s.last, all.last = at, math.max(all.last or 0, at)
    -- By less than one slot of all it may come late for want of a free instant; that is not held against it.
    s.next = math.max(s.next, at - apart) + 1 / (PACED * s.rate)
    s.granted = s.granted + 1
    all.turn, s.turn = chosen_turn, chosen_turn + in_lane[a.weight] / a.weight
    local probe, place = 0, ''
    if s.breaker == 'half_open' then
      s.epoch = s.epoch + 1
      probe, s.probes_out, s.probe_at, s.probe_epoch = 1, 1, now, s.epoch
    end
    if a.limit.concurrency > 0 then
      s.places = (s.places or 0) + 1
      place = string.format('%s|%d', request.process, s.places)
      redis.call('ZADD', K.places(a.task), at + a.limit.patience, place)
    end
    a.freed = false
    table.insert(grants, { chosen, math.ceil((at - now) * 1e6), probe, place })
    a.left, budget = a.left - 1, budget - 1
  end
end

-- 4. Keep it, tell it, answer.
save_scope(ALL, all)
local tasks = {}
for i, a in ipairs(asking) do
  local s = a.s
  save_scope(a.task, s)
  if a.freed then tell(a.task, s.epoch) end  -- a place that the caller has no use for
  tasks[i] = { s.rate, math.max(0, a.wait), s.epoch, a.paused and 'paused' or s.held_until > now and 'held' or s.breaker, s.outage_from or 0, s.outage_to or (s.outage_from and now or 0) }
end
for _, event in ipairs(events) do
  redis.call('PUBLISH', K.limit_events(), cjson.encode({ scope = event[1], epoch = event[2] }))
end
return cjson.encode({ rate = all.rate, processes = processes, grants = grants, tasks = tasks, events = events })
