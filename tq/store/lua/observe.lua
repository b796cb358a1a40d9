-- observe: add what a process has seen to what all have.
-- ARGV: now, then per series its field and its numbers, separated by spaces
-- A number is added to the one at its place: where there are none yet, all are 0.
-- include: now
for i = 2, #ARGV, 2 do
  local sums = {}
  for number in string.gmatch(redis.call('HGET', K.observed(), ARGV[i]) or '', '%S+') do
    sums[#sums + 1] = tonumber(number)
  end
  local place = 0
  for number in string.gmatch(ARGV[i + 1], '%S+') do
    place = place + 1
    sums[place] = string.format('%.15g', (sums[place] or 0) + tonumber(number))
  end
  redis.call('HSET', K.observed(), ARGV[i], table.concat(sums, ' '))
end
