-- runs: runs as they stand, each at one instant, so that its counts add up.
-- ARGV: now, 1 to return their shares too, then the runs
-- Returns per run a list: the fields of the run and their values, the same of its shares, and how
-- many of its jobs are open.
local answer = {}
for i = 3, #ARGV do
  local shares = ARGV[2] == '1' and redis.call('HGETALL', K.shares(ARGV[i])) or {}
  table.insert(answer, { redis.call('HGETALL', K.run(ARGV[i])), shares, redis.call('HLEN', K.open(ARGV[i])) })
end
return answer
