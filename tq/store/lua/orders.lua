-- orders: what operators have ordered. Pauses whose end has come are past.
-- ARGV: now
-- Returns two lists of scope and order (JSON) in turns: rates, pauses.
-- include: now
-- include: past_pauses
local pauses = {}
for _, scope in ipairs(redis.call('HKEYS', K.paused())) do
  if pause_at(scope, now) then
    table.insert(pauses, scope)
    table.insert(pauses, redis.call('HGET', K.paused(), scope))
  else
    end_pause(scope, now)
  end
end
return { redis.call('HGETALL', K.ordered()), pauses }
