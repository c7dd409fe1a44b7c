-- park: available -> waiting
-- release: waiting -> available
-- with: limits
-- args: field of the key limits, number of running jobs allowed, or nothing for no limit
-- replies: 1 where more jobs are to be parked or released by another call, else 0

local field, allowed = ARGV[3], ARGV[4]
T.limited = true
if allowed == '' then redis.call('HDEL', K.limits, field) else redis.call('HSET', K.limits, field, allowed) end

-- The available jobs among those that hold a slot, the last in line first.
local function last_in_line(key)
  local ids, prefix = {}, T.frame(key) .. 'r'
  if key == '' then
    for _, member in ipairs(redis.call('ZREVRANGE', K.available, 0, 499)) do ids[#ids + 1] = string.sub(member, 9) end
    T.load(ids)
    return ids
  end
  local found = redis.call('ZRANGEBYLEX', K.keyed, '[' .. prefix, '(' .. prefix .. '\255', 'LIMIT', 0, 2000)
  for at, member in ipairs(found) do found[at] = string.sub(member, #prefix + 1) end
  T.load(found)
  table.sort(found, function(one, other)
    local a, b = T.jobs[one], T.jobs[other]
    if a[PRIORITY] ~= b[PRIORITY] then return a[PRIORITY] < b[PRIORITY] end
    return a[ORDER] > b[ORDER]
  end)
  return found
end

-- Parks what is beyond the limit, a bounded part; true where more is left.
local function park(key)
  local most = T.allowed(key)
  local over = most < math.huge and T.slots(key) - most or 0
  if over < 1 then return false end
  for at, id in ipairs(last_in_line(key)) do
    if at > math.min(over, 500) then break end
    T.touch(id)
    T.jobs[id][HELD] = key == '' and 1 or 2
    T.move(id, 'park')
  end
  return over > 500
end

local key = string.sub(field, 2)
local more = park(key)
T.freed = {}
T.commit()
more = T.release({key, key ~= '' and '' or nil}) or more
T.stir = true
local limited = redis.call('HLEN', K.limits) + redis.call('ZCARD', K.waiting) + redis.call('ZCARD', K.parked) > 0
redis.call('HSET', K.meta, 'limited', limited and 1 or 0)
return more and 1 or 0
