-- with: limits, blocking
-- flags: no-writes
-- args: key, most ids in a list
-- replies: {jobs claimed, available, that wait, pending, failures in the window, end of the block (wall clock, ms) or -1,
-- why it is blocked, numbers in force (see LIMIT), ids claimed, available, that wait, blocks in the log}

local key, most = ARGV[3], math.min(500, tonumber(ARGV[4]))
local prefix, limits = T.frame(key), T.limits_of(key)

local function count(from, to) return redis.call('ZLEXCOUNT', K.keyed, '[' .. prefix .. from, '(' .. prefix .. to) end

local function ids(class, head)
  local first = '[' .. prefix .. class
  local found = redis.call('ZRANGEBYLEX', K.keyed, first, first .. '\255\255', 'LIMIT', 0, most)
  for at, member in ipairs(found) do found[at] = string.sub(member, #prefix + 2 + head) end
  return found
end

-- Those that wait for the queue only are ahead of those that wait for the key.
local function in_line()
  local found = ids('v', 16)
  for _, id in ipairs(ids('w', 16)) do
    if #found < most then found[#found + 1] = id end
  end
  return found
end

local function logged()
  local found = {}
  for _, entry in ipairs(redis.call('LRANGE', K.blockings, 0, -1)) do
    if struct.unpack('>Hc0', entry, 17) == key then found[#found + 1] = entry end
  end
  return found
end

local left = (limits.blocked_until or T.now) - T.now
return {
  count('c', 'd'),
  count('r', 's'),
  count('v', 'x'),
  count('c', 'x'),
  #T.failures_of(key),
  left > 0 and string.format('%.0f', T.wall + left) or '-1',
  left > 0 and limits.reason or '',
  struct.pack(LIMIT_FORMAT, unpack(limits)),
  ids('c', 0),
  ids('r', 16),
  in_line(),
  logged(),
}
