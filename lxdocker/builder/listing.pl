# listing.pl ROOT DEVICES: prints what is in the folder ROOT, an unpacked image: a line of fields separated by blanks for
# each file, folder or other thing, a folder before what is in it, names in the order of their bytes. DEVICES has lines of
# `unsquashfs -lln` with the devices of the image, some of which may not have been made.
#
#   F TYPE MODE UID GID SIZE TIME DEVICE SHA256 PATH TARGET ATTRIBUTES   TYPE is as in ls(1), SIZE that of a file
#   P MANAGER NAME VERSION ARCHITECTURE                                  a package that is installed
#   R PATH                                                               a damaged or unknown database of rpm
#   N                                                                    there may be devices that are not listed
#   E COUNT                                                              the last line: so many lines of files
#
# In a field, % and all but visible ASCII are %XX; what does not apply is -. Nothing here follows a link of the image.
# For rpm_packages, see rpm.pl.
my ($root, $devices) = @ARGV;
my $bb = '/bin/busybox';
my ($most_at_once, $most_bytes) = (500, 100_000); # files and bytes of their names in the arguments of one sha256sum
my $most_of_attributes = 4000;
my ($count, $unclear, $pending_bytes) = (0, 0, 0);
my (@lines, @pending, %attributes, %missing, %sums); # sums by inode

sub encoded {
	my ($text) = @_;
	$text =~ s/([^!-\$&-~])/sprintf '%%%02X', ord $1/ge;
	return $text eq '-' ? '%2D' : $text;
}

sub read_attributes {
	my $tools = '/usr/lib/attributes';
	open my $from, '-|', "$tools/ld.so", '--library-path', $tools, "$tools/getfattr", '-R', '-P', '-h', '-d',
		'-e', 'hex', '-m', '^(user\.|security\.capability$)', '.' or die "getfattr: $!\n";
	my $path;
	while (my $line = <$from>) {
		chomp $line;
		if ($line =~ /^# file: (.*)/) {
			$path = $1 =~ s/\\([0-7]{3})/chr oct $1/ger;
			$path =~ s{^\.(?:/|$)}{};
		} elsif ($line ne '') {
			# The owner that a user namespace adds to a capability is the builder's.
			$line =~ s/^(security\.capability=0x0[01]0000)03([0-9a-f]{32})[0-9a-f]{8}$/${1}02$2/;
			$line =~ s/\\([0-7]{3})/chr oct $1/ge;
			push @{$attributes{$path}}, $line;
		}
	}
	close $from or die "reading attributes failed\n";
}

# Whether a name or a link's target has one, so that there may be lines in DEVICES that are parts of it.
sub has_line_breaks {
	my @folders = ('.');
	while (defined(my $path = pop @folders)) {
		opendir my $folder, $path or die encoded($path) . ": $!\n";
		while (defined(my $name = readdir $folder)) {
			next if $name eq '.' || $name eq '..';
			$name =~ /\n/ and return 1;
			lstat "$path/$name";
			if (-l _) { readlink("$path/$name") =~ /\n/ and return 1 }
			elsif (-d _) { push @folders, "$path/$name" }
		}
	}
	return 0;
}

# The devices that are in the image, but could not be made.
sub read_devices {
	-s $devices or return;
	if (has_line_breaks()) { $unclear = 1; return }
	open my $from, '<', $devices or die "$devices: $!\n";
	while (my $line = <$from>) {
		chomp $line;
		my ($type, $letters, $uid, $gid, $major, $minor, $time, $path) = $line =~ m{
			^([bc])([-rwxsStT]{9})\ ([0-9]+)/([0-9]+)\ +([0-9]+),\ *([0-9]+)\ ([0-9-]+\ [0-9:]+)\ squashfs-root/(.+)$}x;
		defined $path && $path !~ m{(?:^|/)\.{0,2}(?:/|$)} or next;
		lstat $path and next;
		my ($folder, $name) = $path =~ m{^(?:(.*)/)?([^/]+)$};
		$folder //= '';
		if ($folder ne '') { is_inside($folder) && -d $folder or next }
		# Some versions show the upper bits of a minor number in the major one, as the squashfs has them.
		($major, $minor) = ($major & 0xfff, $minor | $major >> 12 << 8);
		$missing{$folder}{$name} = [$type, mode($letters), $uid, $gid, $major, $minor];
	}
}

sub mode {
	my @letters = split //, $_[0];
	my $mode = 0;
	for my $at (0 .. 8) { $mode |= 1 << (8 - $at) if $letters[$at] =~ /[rwxst]/ }
	for my $at (0 .. 2) { $mode |= 04000 >> $at if $letters[3 * $at + 2] =~ /[sStT]/ }
	return $mode;
}

# Whether no folder on the way to a path, nor itself, is a link.
sub is_inside {
	my $way = '';
	for my $name (split m{/}, $_[0]) {
		$way .= $way eq '' ? $name : "/$name";
		lstat $way or return 0;
		return 0 if -l _;
	}
	return 1;
}

sub names {
	my ($path) = @_;
	opendir my $folder, $path eq '' ? '.' : $path or die encoded($path) . ": $!\n";
	my @names = grep { $_ ne '.' && $_ ne '..' } readdir $folder;
	closedir $folder;
	push @names, keys %{$missing{$path}} if $missing{$path};
	@names = sort @names;
	return @names;
}

sub add { # TYPE MODE UID GID SIZE TIME DEVICE SHA256 PATH TARGET
	my ($path, $target) = splice @_, 8;
	$_[1] = sprintf '%o', $_[1];
	my $attributes = join ',', map { encoded($_) } sort @{$attributes{$path} // []};
	$attributes = 'sha256:' . sum_of($attributes) if length $attributes > $most_of_attributes;
	push @lines, [@_, encoded("/$path"), defined $target ? encoded($target) : '-', $attributes eq '' ? '-' : $attributes];
	$count++;
	flush_lines() if @lines >= 2000;
}

sub entry {
	my ($path, $folder, $name) = @_;
	my @status = lstat($path eq '' ? '.' : $path);
	if (!@status) {
		my $device = $missing{$folder}{$name} or die encoded($path) . ": $!\n";
		my ($type, $mode, $uid, $gid, $major, $minor) = @$device;
		add($type, $mode, $uid, $gid, '-', '-', "$major:$minor", '-', $path, undef);
		return 0;
	}
	my ($inode, $mode, $links, $uid, $gid, $rdev, $size, $time) = @status[1 .. 7, 9];
	my $type = -l _ ? 'l' : -d _ ? 'd' : -f _ ? '-' : -b _ ? 'b' : -c _ ? 'c' : -p _ ? 'p' : 's';
	my ($device, $target, $sum) = ('-', undef, '-');
	if ($type eq 'b' || $type eq 'c') {
		$device = (($rdev >> 8 & 0xfff) | ($rdev >> 32 & ~0xfff)) . ':' . (($rdev & 0xff) | ($rdev >> 12 & 0xfff00));
	} elsif ($type eq 'l') {
		$target = readlink($path) // die encoded($path) . ": $!\n";
	} elsif ($type eq '-') {
		# Of a file with several names, the content is read once.
		my $new;
		$sum = $links > 1 ? \$sums{$inode} : \$new;
		if (!defined $$sum) {
			$$sum = '';
			push @pending, [$path, $sum];
			$pending_bytes += length($path) + 3;
		}
	}
	add($type, $mode & 07777, $uid, $gid, $type eq '-' ? $size : '-', $time, $device, $sum, $path, $target);
	hash_pending() if @pending >= $most_at_once || $pending_bytes > $most_bytes;
	return $type eq 'd';
}

sub output {
	open my $from, '-|', @_ or die "$_[0]: $!\n";
	local $/;
	my $text = <$from>;
	close $from or die "reading the image's files failed\n";
	return $text;
}

sub sum_of_file { return substr output($bb, 'sh', '-c', "exec $bb sha256sum <\"\$1\"", 'sh', $_[0]), 0, 64 }

sub sum_of {
	my ($text) = @_;
	open my $file, '>', "$devices.text" or die "$devices.text: $!\n";
	print $file $text and close $file or die "$devices.text: $!\n";
	return sum_of_file("$devices.text");
}

# Of many files at once. A name that may stand differently in the output is given to a program of its own.
sub hash_pending {
	my @usual = grep { $_->[0] !~ /[\\\r\n]/ } @pending;
	for my $one (grep { $_->[0] =~ /[\\\r\n]/ } @pending) { ${$one->[1]} = sum_of_file("./$one->[0]") }
	if (@usual) {
		my $text = output($bb, 'sha256sum', map { "./$_->[0]" } @usual);
		for my $one (@usual) {
			$text =~ /\G([0-9a-f]{64})  \Q.\/$one->[0]\E\n/gc or die "unexpected output of sha256sum\n";
			${$one->[1]} = $1;
		}
	}
	@pending = ();
	$pending_bytes = 0;
}

sub flush_lines {
	hash_pending() if @pending;
	for my $line (@lines) {
		$line->[7] = ${$line->[7]} if ref $line->[7];
		print 'F ', join(' ', @$line), "\n";
	}
	@lines = ();
}

sub walk {
	entry('', '', '');
	my @stack = (['', reverse names('')]);
	while (@stack) {
		my $top = $stack[-1];
		if (@$top == 1) { pop @stack; next }
		my ($folder, $name) = ($top->[0], pop @$top);
		my $path = $folder eq '' ? $name : "$folder/$name";
		push @stack, [$path, reverse names($path)] if entry($path, $folder, $name);
	}
	flush_lines();
}

sub package { print 'P ', join(' ', map { defined $_ && $_ ne '' ? encoded($_) : '-' } @_), "\n" }

# Paragraphs of lines `KEY: VALUE`, or `K:VALUE`.
sub paragraphs {
	my ($path, $use) = @_;
	is_inside($path) && -f $path or return;
	open my $from, '<', $path or return;
	my %found;
	while (defined(my $line = <$from>)) {
		if ($line =~ /^\s*$/) { $use->(%found) if %found; %found = () }
		elsif ($line =~ /^([A-Za-z-]{1,40}):\s*(.{0,1000})/) { $found{$1} = $2 if keys %found < 200 }
	}
	$use->(%found) if %found;
}

sub packages {
	my $dpkg = sub {
		my %of = @_;
		defined $of{Package} && ($of{Status} // 'ok installed') =~ / installed$/ or return;
		&package('dpkg', @of{qw(Package Version Architecture)});
	};
	paragraphs('var/lib/dpkg/status', $dpkg);
	if (is_inside('var/lib/dpkg/status.d') && opendir my $folder, 'var/lib/dpkg/status.d') {
		paragraphs("var/lib/dpkg/status.d/$_", $dpkg) for sort grep { !/\.md5sums$|^\./ } readdir $folder;
	}
	for my $path ('lib/apk/db/installed', 'usr/lib/apk/db/installed') {
		paragraphs($path, sub { my %of = @_; &package('apk', @of{qw(P V A)}) if defined $of{P} });
	}
	rpm_packages($_) for 'var/lib/rpm', 'usr/lib/sysimage/rpm', 'usr/share/rpm';
}

chdir $root or die "$root: $!\n";
read_attributes();
read_devices();
walk();
packages();
print "N\n" if $unclear;
print "E $count\n";
