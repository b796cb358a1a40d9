-- user_pauses: which users operators have paused: a user (field `user`), or one task of a user (`user|task`).
-- Comes after `pauses`.
-- The pauses that hold among these fields, as JSON by field. One whose end has come is forgotten.
local function user_pauses_among(fields, now)
  local pauses = {}
  for first = 1, #fields, 1000 do
    local found = redis.call('HMGET', K.user_pauses(), unpack(fields, first, math.min(first + 999, #fields)))
    for i = 1, #found do
      local field = fields[first + i - 1]
      if if_holding(found[i], now) then pauses[field] = found[i]
      elseif found[i] then redis.call('HDEL', K.user_pauses(), field) end
    end
  end
  return pauses
end
