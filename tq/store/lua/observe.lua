-- observe: add what a process has seen to what all have.
-- ARGV: now, then per task its id and what was seen of it, as JSON: series -> numbers
-- A number is added to the one at its place: where there are none yet, all are 0.
for i = 2, #ARGV, 2 do
  local seen = redis.call('HGET', K.seen(), ARGV[i])
  local sums = seen and cjson.decode(seen) or {}
  for series, numbers in pairs(cjson.decode(ARGV[i + 1])) do
    local there = sums[series] or {}
    for place, number in ipairs(numbers) do there[place] = (there[place] or 0) + number end
    sums[series] = there
  end
  redis.call('HSET', K.seen(), ARGV[i], cjson.encode(sums))
end
