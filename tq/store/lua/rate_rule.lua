-- rate_rule: how fast a task may be called, learned from how its calls come out. Touches no key.
--
-- A task's scope `s` is a table; `now` is in seconds, rates are calls per second.
--   A window of about a second collects outcomes. At its end the rate is
--     cut     when more calls were refused than is usual, or answers take far longer than usual:
--             the share that got through is what the endpoint can take (AIMD, but by evidence);
--     grown   when nothing is wrong and the rate is what holds us back: back to the capacity last
--             known along a cubic, as CUBIC does (RFC 9438), then beyond it by 1, 2, 4 .. 10 % a second;
--     left    otherwise: who does not use the rate learns nothing about a higher one.
--   Refusals of calls that began before the last cut (an older epoch) do not cut again.
--   The breaker is for death, not for overload, where a share still gets through. It opens after a row
--   of failures without one success; then single probes ask, and two good ones close it; then the rate
--   doubles from a quarter of what it was.
--   A Retry-After holds the whole task, and the successes of the whole cycle, wait included, are what
--   the quota allows.
local TICK_S, LONGEST_TICK_S = 1, 5
local ENOUGH = 10           -- outcomes by which a window is judged early
local UNUSUAL = 0.03        -- refused calls beyond the usual share that are no accident
local SIGMAS = 3
local FAILING = 0.2         -- errors of other kinds speak of capacity only when they are many
local LEAST_LEFT = 0.3      -- one window never takes more than this from the rate
local EASE = 0.95           -- a little below what it can take, so that its queue drains
local SLOW, SLOW_S = 3, 0.02  -- answers this many times slower than usual, and 20 ms beyond
local GROWING = 0.05        -- seconds a second
local SLUGGISH = 1.5
local EASE_SLOW = 0.9
local PATIENCE_S = 10
local GRACE_S = 4           -- a queue that was built needs this long to drain
local USUAL_FOR_GOOD = 3    -- slowness that so many cuts did not mend is not ours
local USUAL_OVER_S = 300
local RECOVER_S, LONGEST_RECOVER_S = 2, 5
-- Beyond what is known, step by step, per second; the last is taken when all before it, a rise by half, met with nothing.
local STEPS = { 0.01, 0.02, 0.04, 0.08, 0.1, 0.1, 0.1, 0.2 }
local LEAST_STEP = 0.0025   -- of the ceiling
local SPARE = 2             -- who does not use its rate keeps twice of what it uses
local REGAIN = 0.05         -- per second
local IN_USE = 0.85         -- a rate is what holds us back when so much of it was handed out
local NOISE_OVER_S, MOST_NOISE = 10, 0.1
local OPENS_AFTER = { { 40, 0.5 }, { 10, 3 } }  -- failures in a row, and seconds without a success
local OPEN_S, LONGEST_OPEN_S = 1, 5
local PROBES = 2
local EASE_IN = 0.25
local SAME_TROUBLE_S = 5
local OUTDATED = 1.25
local SAME_OUTAGE_S = 60
local REPORTED_WITHIN_S = 1  -- the first failure was so long ago when it was heard of, at most
local THROTTLED_S = 1       -- the wait after a 429 that names none
local EASE_QUOTA = 0.98
local NEWS = 0.7            -- who holds slots of a rate beyond this must be told at once

local function open_window(s)
  s.since, s.granted = now, 0
  s.ok, s.ok_any, s.overload, s.error, s.seconds, s.ratio = 0, 0, 0, 0, 0, 0
end

-- Slots handed out so far, and outcomes of the calls they were for, say nothing about the rate from now on.
local function begin_epoch(s)
  s.epoch = s.epoch + 1
  s.before = { n = 0, overload = 0, error = 0 }
  open_window(s)
end

local function new_scope(limit)
  local s = {
    rate = limit.base, known = limit.base, sound = limit.base, low = limit.base, cut_at = now, recover = RECOVER_S, step = 1,
    unneeded = 0, noise = 0, usual = 0, last_mean = 0, cut_ratio = 0, vain_cuts = 0,
    breaker = 'closed', open_for = OPEN_S, failures = 0, failing_since = now, last_ok = now, probes_out = 0, good_probes = 0,
    held_until = 0, cycle_since = now, cycle_ok = 0,
    epoch = 0, why = 'starting', next = now, turn = 0, seen = {},
  }
  begin_epoch(s)
  return s
end

-- What the endpoint was known to take. Long after the last cut the rate itself says more, if it is far beyond.
local function sound_capacity(s) return math.max(s.known, s.rate / OUTDATED) end

-- The endpoint was found to take `capacity`; true when holders of slots must be told.
local function cut(s, limit, capacity, ease, why)
  local old = s.rate
  capacity = math.max(limit.floor, math.min(capacity, old))
  -- The same capacity again: it is real, so come back to it with more patience.
  local same = capacity > 0.8 * s.known and capacity < 1.25 * s.known
  s.recover = same and math.min(LONGEST_RECOVER_S, s.recover * 1.5) or RECOVER_S
  -- A death looks like an overload at first; what was known before is worth remembering then.
  if now - s.cut_at > SAME_TROUBLE_S then s.sound = sound_capacity(s) end
  s.known = capacity
  s.rate = math.min(old, math.max(limit.floor, ease * capacity))
  s.low, s.cut_at, s.step, s.easing_in, s.why = s.rate, now, 1, nil, why
  begin_epoch(s)
  return s.rate < NEWS * old
end

local function open_breaker(s)
  s.breaker, s.until_, s.why = 'open', now + s.open_for, 'failing'
  s.probes_out, s.good_probes = 0, 0
end

local function close_breaker(s, limit)
  s.breaker, s.open_for, s.failures = 'closed', OPEN_S, 0
  s.outage_to = now
  s.known, s.easing_in, s.why = s.before_outage, true, 'recovering'
  s.rate = math.max(limit.floor, EASE_IN * s.known)
  s.low, s.cut_at, s.recover, s.step = s.rate, now, RECOVER_S, 1
  begin_epoch(s)
end

-- Takes in outcomes of one epoch: r has ok, overload, error, seconds (of the good ones), epoch, probe.
-- True when holders of slots must be told.
local function hear(s, limit, r)
  local failed = r.overload + r.error
  if r.ok > 0 then
    s.failures, s.last_ok = 0, now
  elseif failed > 0 then
    if s.failures == 0 then s.failing_since = now end
    s.failures = s.failures + failed
  end
  s.ok_any, s.cycle_ok = s.ok_any + r.ok, s.cycle_ok + r.ok
  if s.breaker ~= 'closed' then
    -- Each probe has an epoch of its own: one that comes late, or is told of twice, does not stand for another.
    if s.breaker ~= 'half_open' or not r.probe or r.epoch ~= s.probe_epoch then return false end
    s.probes_out, s.probe_epoch = 0, nil  -- with no outcome: the probe was given back unused
    if failed > 0 then
      s.open_for = math.min(LONGEST_OPEN_S, s.open_for * 2)
      open_breaker(s)
      return true
    end
    s.good_probes = s.good_probes + r.ok
    if s.good_probes >= PROBES then
      close_breaker(s, limit)
      return true
    end
    return false
  end
  if r.epoch == s.epoch then
    s.ok, s.overload, s.error, s.seconds = s.ok + r.ok, s.overload + r.overload, s.error + r.error, s.seconds + r.seconds
    s.ratio = s.ratio + (s.usual > 0 and r.seconds / s.usual or r.ok)
  end
  for _, rule in ipairs(OPENS_AFTER) do
    if s.failures >= rule[1] and now - s.last_ok >= rule[2] then
      if not s.outage_to or s.failing_since - s.outage_to > SAME_OUTAGE_S then s.outage_from = s.failing_since - REPORTED_WITHIN_S end
      s.outage_to, s.failures = nil, 0
      s.before_outage = math.max(sound_capacity(s), now - s.cut_at < SAME_TROUBLE_S and s.sound or 0)
      open_breaker(s)
      begin_epoch(s)
      return true
    end
  end
  return false
end

-- The endpoint asked for a wait (seconds; 0 if it named none), perhaps because a quota is used up. True
-- when holders of slots must be told.
local function hold(s, limit, wait, throttled)
  local until_ = now + (wait > 0 and wait or THROTTLED_S)
  local news = false
  if until_ > s.held_until + 0.5 then
    if throttled and s.rate_is_learned then
      -- Answers to calls that were under way at the same time are one request, not several.
      if s.held_until <= now then
        local cycle = until_ - s.cycle_since
        local quota = (wait > 0 and cycle >= 2) and s.cycle_ok / cycle or 0.9 * s.rate
        cut(s, limit, math.max(quota, LEAST_LEFT * s.rate), EASE_QUOTA, 'throttled')
      end
      s.cycle_since, s.cycle_ok = until_, 0
    else
      begin_epoch(s)
    end
    news = true
  end
  s.held_until = math.max(s.held_until, until_)
  s.next = math.max(s.next, s.held_until)
  s.since = math.max(s.since, s.held_until)
  return news
end

local function grow(s, limit, elapsed)
  if s.easing_in then
    s.rate = math.min(2 * s.rate, EASE * s.known)
    if s.rate >= 0.999 * EASE * s.known then s.easing_in, s.low, s.cut_at = nil, s.rate, now end
  elseif s.rate < 0.999 * s.known then
    local way = math.min(1, (now - s.cut_at) / s.recover)
    s.rate, s.why = math.max(s.rate, s.known - (s.known - s.low) * (1 - way) ^ 3), 'recovering'
  elseif now - s.cut_at >= s.recover then
    local seconds = math.min(elapsed, LONGEST_TICK_S)
    local step = math.max(s.rate * ((1 + STEPS[s.step]) ^ seconds - 1), limit.ceiling * LEAST_STEP * seconds)
    s.rate, s.why = s.rate + step, 'probing'
    s.step = math.min(#STEPS, s.step + 1)
  end
end

-- Ends a window if there is enough in it, and moves the rate. True when holders of slots must be told.
local function control(s, limit)
  local elapsed = now - s.since
  if s.breaker ~= 'closed' or elapsed < TICK_S then return false end
  -- After a cut, refusals are back before slow successes are: those of any epoch count as calls.
  local n = math.max(s.ok, s.ok_any) + s.overload + s.error
  local plainly_refused = n >= 5 and s.overload > n / 2
  if n < ENOUGH and not plainly_refused and elapsed < LONGEST_TICK_S then return false end
  if n == 0 then open_window(s) return false end
  local N = n + 0.5 * s.before.n
  local refused, failing = (s.overload + 0.5 * s.before.overload) / N, (s.error + 0.5 * s.before.error) / N
  local unusual = math.max(UNUSUAL, SIGMAS * math.sqrt(math.max(s.noise, 0.01) * (1 - s.noise) / N))
  local mean = s.ok > 0 and s.seconds / s.ok or s.last_mean
  local ratio = s.ok > 0 and s.ratio / s.ok or 1
  local last_mean = s.last_mean
  s.last_mean = mean

  local used = s.granted / elapsed
  local in_use = used >= IN_USE * s.rate
  local lost
  if refused > s.noise + unusual and s.overload + 0.5 * s.before.overload >= 3 then lost = refused - s.noise
  elseif failing > FAILING + s.noise and s.error + 0.5 * s.before.error >= 3 then lost = failing - s.noise end
  if lost then
    s.cut_ratio = math.max(now - s.cut_at < PATIENCE_S and s.cut_ratio or 0, ratio)
    -- Of a rate that is not used up, only what was sent can have been too much; and if it was, others may
    -- have sent more. It is cut into when that does not mend it.
    local sent = math.min(s.rate, math.max(SPARE * used, s.rate / 2))
    local may_be_others = not in_use and now - s.cut_at > PATIENCE_S
    s.unneeded = in_use and 0 or math.max(s.unneeded, s.rate)
    return cut(s, limit, math.max(math.max(1 - lost, LEAST_LEFT) * sent, may_be_others and SPARE * used or 0), EASE, 'refused')
  end

  local may_grow = true
  if s.ok >= 5 then
    local usual = math.max(s.usual > 0 and s.usual or mean, 0.001)
    local slow = ratio > SLOW + SLOW_S / usual
    -- A queue that others build is for them to mend.
    if slow and SPARE * used > 1.1 * s.rate and (now - s.cut_at > GRACE_S or ratio > 1.2 * s.cut_ratio) then
      local capacity = s.ok_any / elapsed
      -- In vain was a cut only if less went through since; else the queue is still fed as before.
      local in_vain = now - s.cut_at < 3 * GRACE_S and s.cut_ratio > 0 and ratio > 0.9 * s.cut_ratio
        and capacity < 0.95 * (s.cut_delivered or 0)
      s.vain_cuts = in_vain and s.vain_cuts + 1 or 0
      if s.vain_cuts >= USUAL_FOR_GOOD then
        s.vain_cuts, s.cut_ratio, s.usual = 0, 0, mean
        open_window(s)
        return false
      end
      s.cut_ratio, s.cut_delivered = ratio, capacity
      -- A queue that grows by x seconds a second is fed 1 + x times what it can take. One that is full
      -- does not grow; then what comes back tells.
      local growing = last_mean > 0 and (mean - last_mean) / elapsed or 0
      if growing > GROWING then capacity = math.max(capacity, s.rate / (1 + growing)) end
      return cut(s, limit, math.max(capacity, LEAST_LEFT * s.rate), EASE_SLOW, 'slow')
    end
    if ratio > SLUGGISH + SLOW_S / usual then may_grow = false end
    if s.usual == 0 or mean < s.usual then s.usual = mean
    else s.usual = s.usual + (mean - s.usual) * math.min(1, elapsed / USUAL_OVER_S) end
  end
  -- What is refused well below the known capacity is noise; near it, taking it for noise would ratchet up.
  if s.rate < 0.97 * s.known or s.rate >= limit.ceiling then
    s.noise = math.min(MOST_NOISE, s.noise + (refused - s.noise) * math.min(1, elapsed / NOISE_OVER_S))
  end
  if refused > s.noise + unusual / 2 and s.overload >= 2 and s.rate > 0.97 * s.known then may_grow = false end
  if s.rate >= limit.ceiling then s.why = 'at its ceiling' else s.why = 'steady' end
  -- Few failures in a slow window are no overload yet, but nor do they speak for more.
  if may_grow and in_use and s.ok > 0 then grow(s, limit, elapsed) end
  -- A rate that was cut while it was not needed comes back while it is not needed, or it would come down
  -- with whatever others do to the endpoint, and never up.
  if may_grow and not in_use and s.ok > 0 and s.rate < s.unneeded then
    s.rate = math.min(s.unneeded, s.rate * (1 + REGAIN) ^ math.min(elapsed, LONGEST_TICK_S))
    s.known = math.max(s.known, s.rate)
  end
  s.rate = math.min(s.rate, limit.ceiling)
  s.before = { n = n, overload = s.overload, error = s.error }
  open_window(s)
  return false
end
