-- with: limits, blocking
-- args: key, for how many ms to block it, or nothing to unblock it, reason
-- replies: 1 where that changed something

if ARGV[4] == '' then return T.unblock(ARGV[3]) and 1 or 0 end
T.block(ARGV[3], tonumber(ARGV[4]), ARGV[5])
return 1
