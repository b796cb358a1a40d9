-- past_pauses: what was paused when, for occurrences that nobody claimed while it was.
-- include: pauses
local PAUSES_KEPT_MS = 2 * 24 * 3600 * 1000 -- what fell due before that is caught up on no more

-- A pause is taken out, and kept in mind up to its end, or up to an earlier instant (ms).
local function end_pause(scope, at)
  local text = redis.call('HGET', K.paused(), scope)
  if not text then return end
  local pause = cjson.decode(text)
  local over = math.min(pause['until'] or at, at)
  redis.call('ZADD', K.past_pauses(), over, scope .. '|' .. string.format('%d', pause.since))
  redis.call('ZREMRANGEBYSCORE', K.past_pauses(), '-inf', at - PAUSES_KEPT_MS)
  redis.call('HDEL', K.paused(), scope)
end

-- Whether a pause held at an instant (ms) that is past.
local function was_paused(scope, ms)
  local pause = pause_at(scope, ms)
  if pause and pause.since <= ms then return true end
  for _, past in ipairs(redis.call('ZRANGEBYSCORE', K.past_pauses(), '(' .. ms, '+inf')) do
    local its_scope, since = string.match(past, '^(.*)|(%d+)$')
    if its_scope == scope and tonumber(since) <= ms then return true end
  end
  return false
end
