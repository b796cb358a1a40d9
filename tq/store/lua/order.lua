-- order: give or withdraw an operator's order for a scope (a task, or `*` for all of them), and tell all
-- processes, so that they ask the limiter at once instead of using up what they have in hand.
-- ARGV: now, rate or pause, scope, the order as JSON without its time; '' to withdraw it
-- Returns 1 when it is given. Of a withdrawal: whether there was one. Of a pause whose end has come
-- already: -1, and nothing is changed.
-- include: now
-- include: past_pauses
local kind, scope, text = ARGV[2], ARGV[3], ARGV[4]
local orders = kind == 'pause' and K.paused() or K.ordered()
local answer = 1
if text == '' then
  if kind == 'pause' then
    answer = pause_at(scope, now) and 1 or 0
    end_pause(scope, now)
  else
    answer = redis.call('HDEL', orders, scope)
  end
else
  local order = cjson.decode(text)
  if kind == 'pause' then
    if order['until'] and order['until'] <= now then return -1 end
    -- Who pauses what is paused changes why, and until when, but not since when nobody is called.
    local there = pause_at(scope, now)
    order.since = there and there.since or math.floor(now)
    if not there then end_pause(scope, now) end
  else
    order.at = math.floor(now)
  end
  redis.call('HSET', orders, scope, cjson.encode(order))
end
redis.call('PUBLISH', K.limit_events(), cjson.encode({ scope = scope }))
return answer
