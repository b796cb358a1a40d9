-- standings: how scopes stand, for whoever looks; changes nothing.
-- ARGV[1] now (ms)   ARGV[2] JSON: the limit of everything   ARGV[3] JSON: { scope = name, limit = limit } for each
-- Returns JSON per scope: see Standing in tq/store/limits.py.
local now = tonumber(ARGV[1]) / 1000
if now == 0 then
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1e6
end
-- include: error_rates
-- include: scopes
local ACTIVE_S = 20  -- over this time it is seen who calls, and how fast
local all_limit = in_force(cjson.decode(ARGV[2]), order_of('*'))
local answers = {}
for i, wanted in ipairs(cjson.decode(ARGV[3])) do
  local scope = wanted.scope
  local order = order_of(scope)
  local limit = scope == '*' and all_limit or in_force(wanted.limit, order, all_limit)
  local s = load_scope(scope, limit)
  set_rate(s, limit, scope)
  local waiting, in_use = 0, 0
  for _, seen in pairs(s.seen) do
    if seen.at >= now - SEEN_S and seen.waiting then
      waiting, in_use = waiting + seen.waiting, in_use + seen.in_use
    end
  end
  local busy = 0
  for _, at in pairs(s.busy or {}) do
    if at >= now - SEEN_S then busy = busy + 1 end
  end
  local minute, lately = outcomes_of(scope, now, 60), outcomes_of(scope, now, ACTIVE_S - 10)
  local rate_of_errors, calls = error_rate(minute)
  local _, recent = error_rate(lately)
  -- The present slot of ten seconds is under way.
  local seconds = ACTIVE_S - 10 + now % 10
  local breaker = s.breaker
  if breaker == 'open' and s.until_ <= now then breaker = 'half_open' end
  answers[i] = {
    scope = scope, rate = s.rate, ceiling = limit.ceiling, strategy = limit.strategy, breaker = breaker,
    breaker_until = s.until_ or 0, held_until = s.held_until, why = s.why, order = order, pause = pause_of(scope),
    waiting = waiting, in_use = in_use, busy = busy, calls = calls, error_rate = rate_of_errors, pace = recent / seconds,
  }
end
return cjson.encode({ now = now, scopes = answers })
