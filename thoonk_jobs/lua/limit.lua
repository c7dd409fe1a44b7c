-- park: available -> waiting
-- release: waiting -> available
-- with: limits, lines, adjusting
-- args: field of the key limits, its numbers (see LIMIT): NaN leaves one as it is, -1 forgets it
-- replies: 1 where more jobs are to be parked or let go by settle, else 0

local field, given, set = ARGV[3], {struct.unpack(LIMIT_FORMAT, ARGV[4])}, false
local raw = redis.call('HGET', K.limits, field)
local stored = raw and {struct.unpack(LIMIT_FORMAT, raw)} or {}

for at = 1, LIMIT_SIZE do
  local number = given[at]
  if number ~= number then number = stored[at] or number elseif number == -1 then number = 0 / 0 end
  stored[at] = number
  set = set or number == number
end
stored[LIMIT_SIZE + 1] = nil -- where unpack ended
if set then
  redis.call('HSET', K.limits, field, struct.pack(LIMIT_FORMAT, unpack(stored)))
else
  redis.call('HDEL', K.limits, field)
end
redis.call('HDEL', K.behind, field)
T.store_limited()
T.adjust(field, '-')
T.store_limited()
T.stir = true
return T.behind and 1 or 0
