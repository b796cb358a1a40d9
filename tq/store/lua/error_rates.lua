-- error_rates: how calls came out, per scope, in slots of ten seconds over the last hour.
-- A slot's field is its place in the hour, so that a new hour overwrites the last one and nothing
-- has to be tidied up. Its value is the slot's number and the counts of the kinds, in KINDS' order.
local SLOT_S, SLOTS = 10, 360
local KINDS = { 'ok', 'rejected', 'error', 'overload', 'throttled' }

local function count_outcomes(scope, now_s, counts)
  local key, slot = K.outcomes(scope), math.floor(now_s / SLOT_S)
  local field = slot % SLOTS
  local values = {}
  local number, rest = string.match(redis.call('HGET', key, field) or '', '^(%d+)(.*)$')
  if tonumber(number) == slot then
    for count in string.gmatch(rest, '%d+') do table.insert(values, tonumber(count)) end
  end
  for i = 1, #KINDS do values[i] = (values[i] or 0) + (counts[i] or 0) end
  redis.call('HSET', key, field, slot .. ' ' .. table.concat(values, ' '))
  redis.call('EXPIRE', key, SLOT_S * SLOTS * 2)
end

-- Counts of the kinds over the last `seconds`, the present slot included.
local function outcomes_of(scope, now_s, seconds)
  local slot, fields = math.floor(now_s / SLOT_S), {}
  for back = 0, math.min(SLOTS - 1, math.ceil(seconds / SLOT_S)) do table.insert(fields, (slot - back) % SLOTS) end
  local sums = { 0, 0, 0, 0, 0 }
  for back, value in ipairs(redis.call('HMGET', K.outcomes(scope), unpack(fields))) do
    local number, rest = string.match(value or '', '^(%d+)(.*)$')
    if tonumber(number) == slot - back + 1 then
      local i = 0
      for count in string.gmatch(rest, '%d+') do i = i + 1 sums[i] = sums[i] + tonumber(count) end
    end
  end
  return sums
end

-- The share that did not come out well, and how many there were.
local function error_rate(sums)
  local all = 0
  for i = 1, #KINDS do all = all + sums[i] end
  return all > 0 and (all - sums[1]) / all or 0, all
end
