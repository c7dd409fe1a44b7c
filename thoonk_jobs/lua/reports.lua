-- flags: no-writes
-- args: id, kind (progress, log, emit), what was read last (token and number, 16 bytes) or nothing, most
-- replies: (token and number, data)*, oldest first

local prefix = T.frame(ARGV[3]) .. T.reports[ARGV[4]].kind
local after = ARGV[5] == '' and '[' .. prefix or '(' .. prefix .. ARGV[5] .. '\255'
local found = redis.call('ZRANGEBYLEX', K.reports, after, '(' .. prefix .. '\255', 'LIMIT', 0, math.min(1000, tonumber(ARGV[6])))
local answer = {}
for at, member in ipairs(found) do
  answer[2 * at - 1] = string.sub(member, #prefix + 1, #prefix + 16)
  answer[2 * at] = string.sub(member, #prefix + 17)
end
return answer
