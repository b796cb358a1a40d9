-- orders: what operators have ordered. Pauses whose end has come are forgotten.
-- ARGV: now
-- Returns two lists of scope and order (JSON) in turns: rates, pauses.
-- include: now
-- include: pauses
local pauses = {}
for _, scope in ipairs(redis.call('HKEYS', K.paused())) do
  if pause_at(scope, now) then
    table.insert(pauses, scope)
    table.insert(pauses, redis.call('HGET', K.paused(), scope))
  else
    redis.call('HDEL', K.paused(), scope)
  end
end
return { redis.call('HGETALL', K.ordered()), pauses }
