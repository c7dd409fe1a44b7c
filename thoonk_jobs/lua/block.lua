-- with: limits, blocking
-- args: key, for how many ms to block it, or nothing to unblock it, reason, 16 digits that name this request
-- replies: 0

local key, span, reason, request = unpack(ARGV, 3)
if span == '' then T.unblock(key) else T.block(key, tonumber(span), reason, request) end
return 0
