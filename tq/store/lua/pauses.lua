-- pauses: whether operators have paused a scope (a task, or `*` for all of them).
-- The pause that holds at an instant (ms); none if its end has come.
local function pause_at(scope, ms)
  local text = redis.call('HGET', K.paused(), scope)
  local pause = text and cjson.decode(text) or nil
  if pause and pause['until'] and pause['until'] <= ms then return nil end
  return pause
end
