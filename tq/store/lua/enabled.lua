-- enabled: whether a user has a task enabled, by the user's own record.
-- The record, as lua/enrol.lua writes it; nothing if there is no such user.
local function record_of(user)
  local start = leaf_start(K.user_branches(), place_of(user))
  return start and redis.call('HGET', K.user_leaf(start), user)
end

local function is_enabled(task, user)
  local record = record_of(user)
  if not record then return false end
  record = record .. ' '
  return (string.find(record, ' +' .. task .. ' ', 1, true) or string.find(record, ' *' .. task .. ' ', 1, true)) ~= nil
end
