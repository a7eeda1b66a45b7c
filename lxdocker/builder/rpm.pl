# The rpm databases of an image, read without rpm; part of listing.pl, whose functions it uses. All three formats hold
# the packages' headers: SQLite (https://sqlite.org/fileformat2.html), ndb (rpm's lib/backend/ndb/rpmpkg.c) and Berkeley
# DB's hash (lib/backend/bdb_ro.cc). A header is as in rpm's docs/manual/hregions.md. Every function here dies of a
# database that is damaged or made to take for ever.
my ($most_packages, $most_in_header, $most_in_version) = (100_000, 1 << 28, 900);
my ($database, $database_size, $budget, $packages);

sub spend { # BYTES: each byte of a database is needed about three times
	$budget -= $_[0];
	$budget >= 0 or die "it is read again and again\n";
}

sub bytes { # OFFSET LENGTH [FILE]
	my ($offset, $length, $file) = @_;
	spend($length);
	sysseek $file // $database, $offset, 0 or die "$!\n";
	my $bytes;
	my $read = sysread $file // $database, $bytes, $length;
	defined $read && $read == $length or die "it is cut off\n";
	return $bytes;
}

# Returns [NAME, VERSION, ARCHITECTURE].
sub package_of {
	my ($header) = @_;
	spend(length $header);
	my ($entries, $size) = unpack 'NN', $header;
	my $start = 8 + 16 * ($entries // die "no header\n");
	$start + $size <= length $header or die "a header is cut off\n";
	my %of;
	for my $number (0 .. $entries - 1) {
		my ($tag, $type, $offset, $count) = unpack 'N4', substr $header, 8 + 16 * $number, 16;
		next if $tag < 1000 || $tag > 1022 || $offset >= $size;
		if ($type == 6) { $of{$tag} = unpack 'Z1000', substr $header, $start + $offset, 1000 }
		elsif ($type == 4 && $count) { $of{$tag} = unpack 'N', substr $header, $start + $offset, 4 }
	}
	my ($name, $version, $release, $epoch, $architecture) = @of{1000, 1001, 1002, 1003, 1022};
	defined $name && defined $version && defined $release or die "a header has no name or version\n";
	$version = (defined $epoch ? "$epoch:" : '') . "$version-$release";
	length $version <= $most_in_version or die "a version is too long\n";
	return [$name, $version, $architecture];
}

# ---- SQLite

# Returns functions: one that reads a page by its number, and how many bytes of it are used.
sub sqlite_pages {
	my ($path) = @_;
	my $head = bytes(0, 100);
	my ($page_size, $reserved) = unpack 'x16 n x2 C', $head;
	$page_size = 65536 if $page_size == 1;
	$page_size >= 512 or die "no page size\n";
	my ($wal, %newer, %pending);
	# What was not yet written back: the frames of the log up to the last one that ends a transaction.
	if (is_inside("$path-wal") && -f "$path-wal" && -s _ > 32) {
		my ($at, $end) = (32, -s _);
		$budget += 2 * $end;
		open $wal, '<', "$path-wal" or die "$!\n";
		my $salts = substr bytes(0, 32, $wal), 16, 8;
		for (; $at + 24 + $page_size <= $end; $at += 24 + $page_size) {
			my ($number, $commit, $own) = unpack 'NNa8', bytes($at, 24, $wal);
			last if $own ne $salts;
			$pending{$number} = $at + 24;
			if ($commit) { @newer{keys %pending} = values %pending; %pending = () }
		}
	}
	my %seen;
	my $page = sub {
		my ($number) = @_;
		$number && !$seen{$number}++ or die "a page is used twice\n";
		return bytes($newer{$number}, $page_size, $wal) if $newer{$number};
		return bytes(($number - 1) * $page_size, $page_size);
	};
	return $page, $page_size - $reserved;
}

sub varint { # TEXT OFFSET: the number, and the offset behind it
	my ($text, $at) = @_;
	my $number = 0;
	for my $count (1 .. 9) {
		my $byte = ord substr $text, $at++, 1;
		return ($number << 8 | $byte, $at) if $count == 9;
		$number = $number << 7 | $byte & 0x7f;
		return ($number, $at) if $byte < 0x80;
	}
}

# Calls USE with the columns of each row of the table that begins on a page.
sub sqlite_rows { # PAGE-READER USABLE ROOT USE
	my ($page, $usable, $root, $use) = @_;
	my @todo = ($root);
	while (defined(my $number = shift @todo)) {
		my $text = $page->($number);
		my $start = $number == 1 ? 100 : 0;
		my ($type, $cells, $right) = unpack 'C x2 n x3 N', substr $text, $start, 12;
		$type == 5 || $type == 13 or die "no table\n";
		my @at = unpack "n$cells", substr $text, $start + ($type == 5 ? 12 : 8), 2 * $cells;
		if ($type == 5) {
			push @todo, (map { unpack 'N', substr $text, $_, 4 } @at), $right;
			next;
		}
		for my $at (@at) {
			my ($length, $behind) = varint($text, $at);
			$length <= $most_in_header or die "a row is too long\n";
			(undef, $behind) = varint($text, $behind);
			my ($most, $least) = ($usable - 35, int(($usable - 12) * 32 / 255) - 23);
			my $here = $length;
			if ($length > $most) {
				$here = $least + ($length - $least) % ($usable - 4);
				$here = $least if $here > $most;
			}
			my $row = substr $text, $behind, $here;
			my $next = $here < $length ? unpack 'N', substr $text, $behind + $here, 4 : 0;
			while (length $row < $length) {
				my $more = $page->($next);
				$next = unpack 'N', $more;
				my $left = $length - length $row;
				$row .= substr $more, 4, $left < $usable - 4 ? $left : $usable - 4;
			}
			$use->(columns($row));
		}
	}
}

sub columns {
	my ($row) = @_;
	my ($end, $at) = varint($row, 0);
	my ($from, @columns) = ($end);
	$end <= length $row or die "a row is cut off\n";
	while ($at < $end) {
		(my $type, $at) = varint($row, $at);
		my $length = $type >= 12 ? ($type - 12) >> 1 : (0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0)[$type];
		$from + $length <= length $row or die "a row is cut off\n";
		my $value = substr $row, $from, $length;
		if ($type >= 1 && $type <= 6) {
			my $number = 0;
			$number = $number << 8 | $_ for unpack 'C*', $value;
			$value = $number;
		}
		push @columns, $value;
		$from += $length;
	}
	return @columns;
}

sub sqlite_packages { # PATH USE
	my ($path, $use) = @_;
	my ($page, $usable) = sqlite_pages($path);
	my $root;
	sqlite_rows($page, $usable, 1, sub { $root = $_[3] if $_[0] eq 'table' && $_[1] eq 'Packages' });
	sqlite_rows($page, $usable, $root // die("no table of packages\n"), sub { $use->($_[1]) });
}

# ---- ndb

sub ndb_packages {
	my ($path, $use) = @_;
	my ($version, $pages) = unpack 'x4 V x4 V', bytes(0, 32);
	$version == 0 && $pages * 4096 <= $database_size or die "an unknown version\n";
	for my $number (2 .. $pages * 256 - 1) {
		my ($magic, $index, $block, $count) = unpack 'a4 V3', bytes(16 * $number, 16);
		$magic eq 'Slot' or die "a damaged slot\n";
		$block or next;
		my ($blob, $own, $generation, $length) = unpack 'a4 V3', bytes(16 * $block, 16);
		$blob eq 'BlbS' && $own == $index && $length <= 16 * $count or die "a damaged package\n";
		$use->(bytes(16 * $block + 16, $length));
	}
}

# ---- Berkeley DB

sub bdb_packages {
	my ($path, $use) = @_;
	my $head = bytes(0, 72);
	# As the machine had it that wrote it.
	my ($long, $short) = unpack('x12 V', $head) == 0x61561 ? ('V', 'v') : ('N', 'n');
	my ($magic, $version, $page_size, $last) = unpack "x12 $long$long$long x8 $long", $head;
	$magic == 0x61561 && $version >= 8 && $version <= 10 && $page_size >= 512 && $page_size <= 65536
		or die "an unknown version\n";
	my %seen;
	for my $number (1 .. $last) {
		my $page = bytes($number * $page_size, $page_size);
		my ($count, $type) = unpack "x20 $short x3 C", $page;
		next if $type != 2 && $type != 13; # others have no entries of the hash
		my @at = unpack "$short$count", substr $page, 26, 2 * $count;
		for (my $key = 0; $key + 1 < @at; $key += 2) {
			my ($start, $value) = @at[$key, $key + 1];
			next if substr($page, $start, 5) eq "\1\0\0\0\0"; # the number of the next package
			my ($kind, $next, $length) = unpack "C x3 $long$long", substr $page, $value, 12;
			if ($kind == 1 && $value < $start) { $use->(substr $page, $value + 1, $start - $value - 1); next }
			$kind == 3 && $length <= $most_in_header or die "a damaged entry\n";
			my $header = '';
			while (length $header < $length) {
				!$seen{$next}++ or die "a page is used twice\n";
				my $more = bytes($next * $page_size, $page_size);
				($next, my $here, my $kind) = unpack "x16 $long x2 $short x C", $more;
				$kind == 7 && $here && $here <= $page_size - 26 or die "a damaged page\n";
				$header .= substr $more, 26, $here;
			}
			$use->(substr $header, 0, $length);
		}
	}
}

# ----

my %formats = (
	'rpmdb.sqlite' => ["SQLite format 3\0", \&sqlite_packages],
	'Packages.db' => ['RpmP', \&ndb_packages],
	'Packages' => ['', \&bdb_packages],
);

sub rpm_packages { # FOLDER: prints the packages in the database of a folder, or that it can't be read
	my ($folder) = @_;
	my ($name) = grep { is_inside("$folder/$_") && -f "$folder/$_" && -s _ } sort { $b cmp $a } keys %formats;
	defined $name or return;
	my ($path, $magic, $read) = ("$folder/$name", @{$formats{$name}});
	my @found;
	local $^W = 1;
	local $SIG{__WARN__} = sub { die "it makes no sense\n" };
	my $done = eval {
		open $database, '<', $path or die "$!\n";
		$database_size = -s $database;
		$budget = 4 * $database_size + (1 << 20);
		bytes(0, length $magic) eq $magic or die "an unknown form\n";
		$read->($path, sub {
			push @found, package_of($_[0]);
			++$packages <= $most_packages or die "too many packages\n";
		});
		1;
	};
	if ($done) { &package('rpm', @$_) for @found }
	else { print 'R ', encoded("/$path"), "\n" }
}
