-- scopes: what is known of a scope (a task, or `*` for all of them), and what operators ordered.
-- include: rate_rule
-- include: pauses
local LIFE_S = 86400  -- what was learned a day ago is worth learning again
local VERSION = 1     -- of what is packed; another one's is forgotten
local BACK_IN_TIME_S = 1
local SEEN_S = 15     -- a process that was not heard of for so long is gone
local STEPPED_OVER_S, STEPPED_ENOUGH = 60, 10
local BAD, GOOD = 0.1, 0.01

-- The rate's limits in force: those that the caller brought, unless an operator ordered others. A task
-- without rates of its own has those of all tasks, `all`; and none may exceed these.
local function in_force(limit, order, all)
  local changed = { strategy = limit.strategy, concurrency = limit.concurrency, patience = limit.patience }
  if not order then
    local rates = limit.own and limit or all or limit
    changed.floor, changed.base, changed.ceiling = rates.floor, rates.base, rates.ceiling
    if all and limit.strategy == 'adaptive' then
      changed.ceiling = math.max(limit.floor, math.min(changed.ceiling, all.ceiling))
      changed.floor = math.min(changed.floor, limit.floor)
      changed.base = math.min(changed.base, changed.ceiling)
    end
    return changed
  end
  local rate = order.rate
  if order.pinned then
    changed.strategy, changed.floor, changed.base, changed.ceiling = 'pinned', rate, rate, rate
  elseif limit.strategy == 'stepped' then
    changed.floor, changed.base, changed.ceiling = rate / 2, rate, rate * 2
  else
    local floor = math.min(rate, limit.floor)
    changed.floor, changed.base, changed.ceiling = floor, math.max(floor, rate / 2), rate
  end
  return changed
end

local function load_scope(scope, limit)
  local packed = redis.call('GET', K.limit(scope))
  local readable, s = pcall(cmsgpack.unpack, packed or '')
  if not (packed and readable and s.version == VERSION) then
    s = new_scope(limit)
  elseif s.at > now + BACK_IN_TIME_S then
    -- Redis' clock has been set back, or another host's is slower: what was planned by the old one
    -- would hold everything until it is reached again.
    local kept = new_scope(limit)
    kept.rate, kept.known, kept.low, kept.usual, kept.epoch = s.rate, s.known, s.low, s.usual, s.epoch + 1
    s = kept
  end
  s.rate_is_learned = limit.strategy == 'adaptive' and scope ~= '*'
  return s
end

local function save_scope(scope, s)
  s.version, s.at = VERSION, now
  redis.call('SET', K.limit(scope), cmsgpack.pack(s), 'EX', LIFE_S)
end

-- The rate of a scope that does not learn; a scope that learns is only kept within its limits.
local function set_rate(s, limit, scope)
  if s.rate_is_learned then
    -- An order that lifts the ceiling is tried out from where the rate stands.
    s.rate = math.max(limit.floor, math.min(limit.ceiling, s.rate))
    s.known, s.low = math.min(s.known, limit.ceiling), math.min(s.low, limit.ceiling)
  elseif limit.strategy == 'stepped' then
    if now - (s.stepped_at or 0) >= TICK_S then
      local bad, calls = error_rate(outcomes_of(scope, now, STEPPED_OVER_S))
      local enough = calls >= STEPPED_ENOUGH
      s.stepped_at, s.hint = now, enough and 'some errors' or 'too few calls to tell'
      s.level = enough and bad > BAD and 'floor' or enough and bad < GOOD and 'ceiling' or 'base'
    end
    s.rate = limit[s.level]
    s.why = s.level == 'floor' and 'errors' or s.level == 'ceiling' and 'hardly any errors' or s.hint
  else
    s.rate, s.why = limit.ceiling, limit.strategy == 'pinned' and 'pinned' or 'at its ceiling'
  end
end

local function pause_of(scope) return pause_at(scope, now * 1000) end

local function order_of(scope)
  local text = redis.call('HGET', K.ordered(), scope)
  return text and cjson.decode(text) or nil
end
