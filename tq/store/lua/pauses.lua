-- pauses: whether operators have paused a scope (a task, or `*` for all of them).
-- The pause that is written as JSON, if it holds at an instant (ms); none if its end has come.
local function if_holding(text, ms)
  local pause = text and cjson.decode(text) or nil
  if pause and pause['until'] and pause['until'] <= ms then return nil end
  return pause
end

-- The pause of a scope that holds at an instant (ms).
local function pause_at(scope, ms) return if_holding(redis.call('HGET', K.paused(), scope), ms) end
