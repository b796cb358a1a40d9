-- enabled: whether a user has a task enabled, by the user's own record.
local function is_enabled(task, user)
  local start = leaf_start(K.user_branches(), place_of(user))
  local record = start and redis.call('HGET', K.user_leaf(start), user)
  if not record then return false end
  record = record .. ' '
  return (string.find(record, ' +' .. task .. ' ', 1, true) or string.find(record, ' *' .. task .. ' ', 1, true)) ~= nil
end
